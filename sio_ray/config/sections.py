"""The config: one section per stage; those that make synthetic images are in `generator_sections`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sio_ray.config.generator_sections import FitGeneratorConfig, GenerateConfig
from sio_ray.config.section import Section, resource, share
from sio_ray.errors import ConfigError

#: Every stage, in the order data flows. Each has a section of the config of the same name, with `_` for `-`.
STAGES = ("prepare", "fit-generator", "generate", "train", "evaluate", "tune", "report")


class PrepareConfig(Section):
    """Where real images come from, and how they are split.

    Attributes:
        source: `digits` (scikit-learn's 8x8 digits) or `image_folder` (your own pictures, see the README).
        root: folder of an `image_folder` source.
        image_size_px: pictures of an `image_folder` are resized and centre-cropped to this square.
        channels: 1 (grey) or 3 (RGB), for an `image_folder`.
        id_classes: classes of the `digits` source that are in-distribution (ID); labels are renumbered from 0.
        near_ood_classes: classes of the `digits` source held out as near-OOD.
        val_fraction: share of the ID images (and of near-OOD) that tunes, never trains, never tests.
        test_fraction: share of the ID images that is read once, at the end.
        images_per_ood_set: pictures in each far-OOD set that is drawn or cut (letters, patches, noise).
        num_outliers: pictures in the outlier-exposure and in the mixing set.
        seed: of the split and of everything drawn.
    """

    source: Literal["digits", "image_folder"] = "digits"
    root: Path | None = None
    image_size_px: int = Field(32, ge=4, le=1024)
    channels: Literal[1, 3] = 3
    id_classes: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    near_ood_classes: tuple[int, ...] = (6, 7, 8, 9)
    val_fraction: float = Field(0.2, gt=0, lt=1, json_schema_extra={"remedy": "give a share, not a percentage"})
    test_fraction: float = Field(0.2, gt=0, lt=1, json_schema_extra={"remedy": "give a share, not a percentage"})
    images_per_ood_set: int = Field(400, ge=1)
    num_outliers: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source == "image_folder" and self.root is None:
            raise ConfigError(
                "prepare.root", "a folder for source image_folder", None, "set prepare.root=/your/pictures"
            )
        both = sorted(set(self.id_classes) & set(self.near_ood_classes))
        if both:
            raise ConfigError(
                "prepare.near_ood_classes", "disjoint from id_classes", both, "keep each class on one side"
            )
        if self.val_fraction + self.test_fraction >= 1:
            total = self.val_fraction + self.test_fraction
            raise ConfigError(
                "prepare.test_fraction", "less than 1 together with val_fraction", total, "leave images to train on"
            )
        return self


class TrainConfig(Section):
    """The classifiers: the baseline on real images alone, and SIO on both.

    Both arms take the same number of optimiser steps of the same batch size, so the comparison is fair.

    Attributes:
        arms: which of `baseline` and `sio` to train.
        seeds: one run per arm and seed.
        network: name of the network.
        width: channels of its first stage.
        real_weight: alpha of the paper: loss = alpha * mean over real + (1 - alpha) * mean over synthetic.
        synthetic_ratio: synthetic images used over real ones; all that were drawn if not given.
        real_batch_share: the share of each batch that is real; `real_weight` if not given.
        synthetic_set: a finished image set to train on instead of what generate wrote.
        num_steps: optimiser steps of every run.
        global_batch_size: images per step over all workers.
        learning_rate: of SGD with Nesterov momentum at its peak; cosine decay to 1e-6.
        momentum: of SGD.
        weight_decay: of SGD.
        warmup_steps: linear warm-up.
        crop_padding_px: random crop after so much zero padding; 0 turns it off.
        horizontal_flip: flip half of the pictures.
        report_every_steps: steps between two points of the training curve, each with a checkpoint to resume from.
        num_workers: Ray Train workers of one run.
        cpus_per_worker: CPU cores, and threads, of each.
        gpus_per_worker: GPUs of each; 0 trains on CPUs.
        concurrent_runs: runs that train side by side.
    """

    arms: tuple[Literal["baseline", "sio"], ...] = Field(("baseline", "sio"), min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    network: Literal["small_cnn", "resnet18_32px"] = "resnet18_32px"
    width: int = Field(64, ge=4)
    real_weight: float = share(0.8)
    synthetic_ratio: float | None = Field(
        None, ge=0, json_schema_extra={"remedy": "give a ratio to the real set, such as 1.0"}
    )
    real_batch_share: float | None = share(None)
    synthetic_set: str | None = None
    num_steps: int = Field(1000, ge=1)
    global_batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    warmup_steps: int = Field(0, ge=0)
    crop_padding_px: int = Field(4, ge=0)
    horizontal_flip: bool = True
    report_every_steps: int = resource(100, ge=1)
    num_workers: int = resource(1, ge=1)
    cpus_per_worker: int = resource(1, ge=1)
    gpus_per_worker: int = resource(0, ge=0, le=1)
    concurrent_runs: int = resource(1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("arms", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ConfigError(f"train.{field}", "without repeats", values, "name each once")
        return self

    @property
    def batch_share(self) -> float:
        """The share of each batch that is real, with its default resolved."""
        return self.real_weight if self.real_batch_share is None else self.real_batch_share


class EvaluateConfig(Section):
    """Which OOD scores are computed.

    Attributes:
        detectors: names of detectors, keys of `sio_ray.ood.detectors.DETECTORS`.
        batch_size: images per forward pass.
        cpus_per_task: CPU cores, and threads, of each task.
        gpus_per_task: GPUs (or a fraction of one) of each task; 0 runs on CPUs.
    """

    detectors: tuple[str, ...] = Field(("msp", "max_logit", "energy", "knn", "odin", "vim"), min_length=1)
    batch_size: int = resource(256, ge=1)
    cpus_per_task: int = resource(1, ge=1)
    gpus_per_task: float = resource(0, ge=0, le=1)


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
