"""The table of training algorithms; a new one is a file beside this one, imported here, and a line in `ALGORITHMS`."""

from __future__ import annotations

from typing import Any

from sio_ray.classifier.algorithms.algorithm import Algorithm, Losses, StepContext
from sio_ray.classifier.algorithms.cross_entropy import CrossEntropy
from sio_ray.classifier.algorithms.cutmix import CutMix
from sio_ray.classifier.algorithms.g_odin import GODIN
from sio_ray.classifier.algorithms.logit_norm import LogitNorm
from sio_ray.classifier.algorithms.mixup import MixUp
from sio_ray.classifier.algorithms.outlier_exposure import OutlierExposure
from sio_ray.classifier.algorithms.pixmix import PixMix
from sio_ray.classifier.algorithms.vos import VOS
from sio_ray.config import Section
from sio_ray.config.options import read_options
from sio_ray.errors import ConfigError, did_you_mean

__all__ = ["ALGORITHMS", "Algorithm", "Losses", "StepContext", "build_algorithm", "check_algorithm"]

#: Name in the config to algorithm.
ALGORITHMS: dict[str, type[Algorithm]] = {
    "cross_entropy": CrossEntropy,
    "logit_norm": LogitNorm,
    "vos": VOS,
    "g_odin": GODIN,
    "mixup": MixUp,
    "cutmix": CutMix,
    "pixmix": PixMix,
    "outlier_exposure": OutlierExposure,
}


def check_algorithm(name: str, options: dict[str, Any]) -> type[Algorithm]:
    """Find an algorithm by its name, and see that it takes the options.

    Raises:
        ConfigError: an unknown name or option, or a value that breaks a rule.
    """
    if name not in ALGORITHMS:
        raise ConfigError("train.algorithm", f"among {', '.join(ALGORITHMS)}", name, did_you_mean(name, ALGORITHMS))
    _options(name, options)
    return ALGORITHMS[name]


def build_algorithm(
    name: str, options: dict[str, Any], *, num_classes: int, num_features: int, label_smoothing: float
) -> Algorithm:
    """Make an algorithm for a network; what it learns itself is drawn from torch's global generator.

    Args:
        name: key of `ALGORITHMS`.
        options: its own fields, where its defaults are not wanted.
        num_classes: C.
        num_features: of the network.
        label_smoothing: share of each label that is spread over all classes.

    Raises:
        ConfigError: an unknown name or option, or a value that breaks a rule.
    """
    algorithm = check_algorithm(name, options)
    return algorithm(
        _options(name, options),
        num_classes=num_classes,
        num_features=num_features,
        label_smoothing=label_smoothing,
    )


def _options(name: str, options: dict[str, Any]) -> Section:
    return read_options(ALGORITHMS[name].Options, options, owner=name, prefix="train.algorithm_options.")
