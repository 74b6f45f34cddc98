"""Typed, validated config of every stage: YAML in, errors that name the field, the rule and the remedy."""

from sio_ray.config.evaluate_section import EvaluateConfig
from sio_ray.config.generator_sections import CurationConfig, FitGeneratorConfig, GenerateConfig
from sio_ray.config.loading import (
    build_config,
    dotted_keys,
    load_config,
    preset_names,
    to_yaml,
    with_overrides,
)
from sio_ray.config.prepare_section import PrepareConfig
from sio_ray.config.section import Section
from sio_ray.config.sections import (
    STAGES,
    ClusterConfig,
    Config,
    ReportConfig,
)
from sio_ray.config.train_section import RampConfig, TrainConfig
from sio_ray.config.tune_section import TuneConfig

__all__ = [
    "STAGES",
    "ClusterConfig",
    "Config",
    "CurationConfig",
    "EvaluateConfig",
    "FitGeneratorConfig",
    "GenerateConfig",
    "PrepareConfig",
    "RampConfig",
    "ReportConfig",
    "Section",
    "TrainConfig",
    "TuneConfig",
    "build_config",
    "dotted_keys",
    "load_config",
    "preset_names",
    "to_yaml",
    "with_overrides",
]
