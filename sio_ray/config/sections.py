"""The config: one section per stage; the largest ones have modules of their own."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sio_ray.config.evaluate_section import EvaluateConfig
from sio_ray.config.generator_sections import FitGeneratorConfig, GenerateConfig
from sio_ray.config.prepare_section import PrepareConfig
from sio_ray.config.section import Section, resource
from sio_ray.config.train_section import TrainConfig

#: Every stage, in the order data flows. Each has a section of the config of the same name, with `_` for `-`.
STAGES = ("prepare", "fit-generator", "generate", "train", "evaluate", "tune", "report")


class TuneConfig(Section):
    """The search over `train` fields against OOD AUROC on the validation sets.

    Attributes:
        space: path of a search space module, such as `tune_spaces/weight_and_ratio.py`.
        num_trials: trials besides the baseline.
        detectors: the objective is the mean near-OOD AUROC over these.
        seeds: every trial trains once per seed and is judged by the mean.
        num_steps: optimiser steps of each training run; those of `train` if not given.
        search_seed: of the search algorithm.
        concurrent_trials: trials that train side by side.
        cpus_per_trial: CPU cores, and threads, of each.
        gpus_per_trial: GPUs (or a fraction of one) of each.
    """

    space: Path = Path("tune_spaces/weight_and_ratio.py")
    num_trials: int = Field(16, ge=1)
    detectors: tuple[str, ...] = Field(("energy",), min_length=1)
    seeds: tuple[int, ...] = Field((100,), min_length=1)
    num_steps: int | None = Field(None, ge=1)
    search_seed: int = Field(0, ge=0)
    concurrent_trials: int = resource(2, ge=1)
    cpus_per_trial: int = resource(1, ge=1)
    gpus_per_trial: float = resource(0, ge=0, le=1)


class ReportConfig(Section):
    """What the HTML page shows.

    Attributes:
        title: heading of the page; made from the config's name if not given.
        images_per_class: columns of the grid of real beside synthetic images.
        detector: whose ROC curves and score histograms are drawn.
    """

    title: str | None = None
    images_per_class: int = Field(10, ge=1, le=40)
    detector: str = "energy"


class ClusterConfig(Section):
    """Which Ray cluster does the work; nothing here changes any result.

    Attributes:
        address: of a running cluster (`auto`, `ray://...`); a local one is started if not given.
        num_cpus: logical CPU cores of a local one; all of the machine's if not given.
        num_gpus: logical GPUs of a local one; all of the machine's if not given.
        dashboard: start Ray's dashboard with a local one.
    """

    address: str | None = None
    num_cpus: int | None = Field(None, ge=1)
    num_gpus: int | None = Field(None, ge=0)
    dashboard: bool = False


class Config(Section):
    """The whole config: one section per stage.

    Attributes:
        name: of the experiment; outputs go to `output_dir/name`.
        output_dir: folder of all experiments; on a cluster, one that all nodes share.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    output_dir: Path = Path("runs")
    prepare: PrepareConfig = PrepareConfig()
    fit_generator: FitGeneratorConfig = FitGeneratorConfig()
    generate: GenerateConfig = GenerateConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    report: ReportConfig = ReportConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def run_dir(self) -> Path:
        """Absolute folder of this experiment; workers have another working directory."""
        return (self.output_dir / self.name).absolute()
