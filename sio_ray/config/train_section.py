"""The section of the config that trains classifiers."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sio_ray.config.generator_sections import Precision
from sio_ray.config.section import Section, place, resource, share
from sio_ray.errors import ConfigError


class RampConfig(Section):
    """A value that moves from where it starts to the field that it belongs to, and then stays there.

    Attributes:
        start: at the first step.
        shape: `linear`; `cosine`, which begins and ends slowly; or `steps`, which jumps, and does not come to the field
            unless the last jump does.
        num_steps: optimiser steps that it takes, not of shape `steps`; all of the run if not given.
        jumps: of shape `steps`: pairs of a step and the value from there on.
    """

    start: float = Field(ge=0)
    shape: Literal["linear", "cosine", "steps"] = "linear"
    num_steps: int | None = Field(None, ge=1)
    jumps: tuple[tuple[int, float], ...] = ()

    @property
    def values(self) -> tuple[tuple[str, float], ...]:
        """The values between which it moves, but for the field that it belongs to, each with its own field's name."""
        return (("start", self.start), *(("jumps", value) for _, value in self.jumps))

    def check(self, name: str, most: float) -> None:
        """Refuse a ramp that leaves its field's bounds, or mixes shapes.

        Args:
            name: of the field that holds it.
            most: the largest value.

        Raises:
            ConfigError: it does.
        """
        for field, value in self.values:
            if not 0 <= value <= most:
                rule = f"in [0, {most:g}]"
                raise ConfigError(f"train.{name}.{field}", rule, value, "give a share, not a percentage")
        steps = [step for step, _ in self.jumps]
        if (self.shape == "steps") != bool(steps) or steps != sorted(set(steps)) or (steps and steps[0] < 1):
            raise ConfigError(
                f"train.{name}.jumps",
                "pairs of ascending steps and values for shape steps, and left out for others",
                self.jumps,
                "give e.g. [[500, 0.8]]",
            )
        if self.shape == "steps" and self.num_steps is not None:
            rule = "left out for shape steps, whose jumps have steps of their own"
            raise ConfigError(f"train.{name}.num_steps", rule, self.num_steps, "leave it out")


class TrainConfig(Section):
    """The classifiers: the baseline on real images alone, and SIO on both.

    Both arms take the same number of optimiser steps of the same batch size, so the comparison is fair.

    Attributes:
        arms: which of `baseline` and `sio` to train.
        seeds: one run per arm and seed.
        ensemble_size: networks of one run, trained side by side from seeds of their own and scored together; 1 is no
            ensemble.
        algorithm: name of the training algorithm of both arms, a key of `sio_ray.classifier.algorithms.ALGORITHMS`.
        algorithm_options: the algorithm's own fields, where its defaults are not wanted.
        network: name of the network, a key of `sio_ray.classifier.networks.NETWORKS`.
        width: channels of its first stage; the network's own if not given.
        pretrained: weights of torchvision that the network starts from, such as `IMAGENET1K_V1`; random if not given.
        real_weight: alpha of the paper: loss = alpha * mean over real + (1 - alpha) * mean over synthetic.
        real_weight_ramp: lets `real_weight` start elsewhere.
        synthetic_ratio: synthetic images used over real ones; all that were drawn if not given.
        synthetic_ratio_ramp: lets `synthetic_ratio` start elsewhere.
        real_batch_share: the share of each batch that is real; `real_weight` if not given.
        synthetic_set: a finished image set to train on instead of what generate wrote.
        outlier_set: a finished image set for algorithms that train on outliers; what prepare wrote if not given.
        mixing_set: a finished image set for algorithms that mix pictures in; what prepare wrote if not given.
        outlier_batch_size: outliers per step over all workers; twice `global_batch_size` if not given.
        num_steps: optimiser steps of every run.
        num_epochs: takes the place of `num_steps`: so many times the real set over `global_batch_size`, in both arms.
        global_batch_size: images per step over all workers, real and synthetic.
        micro_batches: pieces that a worker's part of a batch is cut into, one backward pass each, to save memory; batch
            normalisation then sees pieces.
        learning_rate: of SGD with Nesterov momentum at its peak.
        schedule: of the learning rate: `cosine` down to 1e-6, or `step`.
        step_milestones: shares of the run at which a `step` schedule lowers the learning rate.
        step_factor: what it multiplies it by.
        warmup_steps: linear warm-up.
        momentum: of SGD.
        weight_decay: of SGD.
        label_smoothing: share of each label that is spread over all classes.
        gradient_clip_norm: largest norm of the gradient; not clipped if not given.
        ema_decay: of averaged weights, which are then the ones measured and saved; none if not given.
        precision: `bfloat16` runs the network under autocast; weights, loss and optimiser stay in float32.
        compile: compile the network with `torch.compile`.
        sync_batch_norm: batch normalisation over the batch of all workers, not of each.
        crop_padding_px: random crop after so much zero padding; 0 turns it off.
        horizontal_flip: flip half of the pictures.
        resized_crop: crop a random part (8 to 100 % of the area) and resize it, as is usual at 224 px, in place of the
            padded crop.
        input_px: side of the square that the network sees, at most the pictures'; evaluation crops its centre.
        feed: `memory` decodes all sets once per node, `stream` reads them as it goes, in bounded memory; `auto` takes
            memory for sets of up to `memory_limit_gb`.
        memory_limit_gb: of decoded pictures, for `feed: auto`.
        shuffle_window_images: how many pictures of a stream are shuffled at a time; shards come in random order too.
        report_every_steps: steps between two points of the training curve, each with a checkpoint to resume from; one
            epoch of real images if not given.
        keep: which checkpoint is evaluated: the `last`, or the `best` by ID validation accuracy. Both are saved.
        num_workers: Ray Train workers of one run.
        min_workers: start and go on with as few, where a cluster has no more; `num_workers` if not given.
        cpus_per_worker: CPU cores, and threads, of each.
        gpus_per_worker: GPUs of each; 0 trains on CPUs.
        decoders_per_worker: CPU cores that decode streams for each worker, beside its own.
        concurrent_runs: runs that train side by side.
        loggers: where else the training curve goes: `tensorboard`, `mlflow`, `wandb`.
    """

    arms: tuple[Literal["baseline", "sio"], ...] = Field(("baseline", "sio"), min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    ensemble_size: int = Field(1, ge=1)
    algorithm: str = "cross_entropy"
    algorithm_options: dict[str, Any] = Field(default_factory=dict)
    network: str = "resnet18_32px"
    width: int | None = Field(None, ge=4)
    pretrained: str | None = None
    real_weight: float = share(0.8)
    real_weight_ramp: RampConfig | None = None
    synthetic_ratio: float | None = Field(
        None, ge=0, json_schema_extra={"remedy": "give a ratio to the real set, such as 1.0"}
    )
    synthetic_ratio_ramp: RampConfig | None = None
    real_batch_share: float | None = share(None)
    synthetic_set: str | None = place(None)
    outlier_set: str | None = place(None)
    mixing_set: str | None = place(None)
    outlier_batch_size: int | None = Field(None, ge=1)
    num_steps: int = Field(1000, ge=1)
    num_epochs: int | None = Field(None, ge=1)
    global_batch_size: int = Field(128, ge=1)
    micro_batches: int = Field(1, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    schedule: Literal["cosine", "step"] = "cosine"
    step_milestones: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = Field(0.1, gt=0, le=1)
    warmup_steps: int = Field(0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = share(0.0)
    gradient_clip_norm: float | None = Field(None, gt=0)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    precision: Precision = "float32"
    compile: bool = False
    sync_batch_norm: bool = False
    crop_padding_px: int = Field(4, ge=0)
    horizontal_flip: bool = True
    resized_crop: bool = False
    input_px: int | None = Field(None, ge=4)
    feed: Literal["auto", "memory", "stream"] = "auto"
    memory_limit_gb: float = Field(16.0, gt=0)
    shuffle_window_images: int = Field(8192, ge=1)
    report_every_steps: int | None = Field(None, ge=1)
    keep: Literal["last", "best"] = "last"
    num_workers: int = resource(1, ge=1)
    min_workers: int | None = resource(None, ge=1)
    cpus_per_worker: int = resource(1, ge=1)
    gpus_per_worker: int = resource(0, ge=0, le=1)
    decoders_per_worker: int = resource(1, ge=1)
    concurrent_runs: int = resource(1, ge=1)
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = resource(())

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("arms", "seeds", "loggers"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ConfigError(f"train.{field}", "without repeats", values, "name each once")
        for field, most in (("real_weight_ramp", 1.0), ("synthetic_ratio_ramp", math.inf)):
            ramp = getattr(self, field)
            if ramp is not None:
                ramp.check(field, most)
        if list(self.step_milestones) != sorted(set(self.step_milestones)) or not all(
            0 < share < 1 for share in self.step_milestones
        ):
            raise ConfigError(
                "train.step_milestones", "ascending shares in (0, 1)", self.step_milestones, "give e.g. [0.5, 0.75]"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ConfigError(
                "train.min_workers",
                f"at most num_workers ({self.num_workers})",
                self.min_workers,
                "lower it, or raise the other",
            )
        return self

    @property
    def batch_share(self) -> float:
        """The share of each batch that is real, with its default resolved."""
        return self.real_weight if self.real_batch_share is None else self.real_batch_share
