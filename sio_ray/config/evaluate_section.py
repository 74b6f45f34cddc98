"""The section of the config that says what is evaluated, and by which OOD scores."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sio_ray.config.section import Section, place, resource
from sio_ray.errors import ConfigError

#: The post-hoc detectors of the SIO paper's table, in its order.
PAPER_DETECTORS = (
    *("openmax", "msp", "temp_scale", "odin", "energy", "react"),
    *("max_logit", "klm", "vim", "knn", "dice", "grad_norm"),
)

Arm = Literal["baseline", "sio"]


class EvaluateConfig(Section):
    """What is evaluated, and by which OOD scores.

    Attributes:
        detectors: names of detectors (`sio-ray detectors` lists them); `all` stands for all that suit the network.
        detector_options: detector to its own options, where its defaults are not wanted; what is given is not swept.
        sweep: choose the other options of each detector on the validation sets, from OpenOOD v1.5's lists. Otherwise
            defaults are used.
        full_spectrum: report the figures with covariate-shifted ID images among ID too, where the source has such.
        checkpoints: arm to networks that are evaluated in place of trained ones, one per seed: folders of `sio-ray
            train`, `openood:FILE`, `torchvision:NAME`, `timm:NAME`; several joined by `+` are an ensemble.
        outputs: arm to folders of somebody else's features and logits, one per seed; see docs/evaluation.md.
        download: fetch published weights of `checkpoints` that are not there yet.
        on_overlap: what to do if a test image is among those that are trained on, pixel by pixel.
        batch_size: images per forward pass.
        num_actors: actors that run networks over image sets; 0 takes as many as the cluster fits.
        cpus_per_task: CPU cores, and threads, of each actor and task.
        gpus_per_task: GPUs (or a fraction of one) of each; 0 runs on CPUs.
        max_failures_per_shard: a shard of an image set that fails so often ends the stage.
        shard_timeout_s: an actor that takes longer for a shard, or longer than that and half an hour to load the
            networks, is replaced.
        max_wait_s: how long to wait for a place in a cluster of yours.
    """

    detectors: tuple[str, ...] = Field(PAPER_DETECTORS, min_length=1)
    detector_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sweep: bool = True
    full_spectrum: bool = False
    checkpoints: dict[Arm, tuple[str, ...]] = place(default_factory=dict)
    outputs: dict[Arm, tuple[str, ...]] = place(default_factory=dict)
    download: bool = resource(False)
    on_overlap: Literal["warn", "stop"] = resource("warn")
    batch_size: int = resource(256, ge=1)
    num_actors: int = resource(0, ge=0)
    cpus_per_task: int = resource(1, ge=1)
    gpus_per_task: float = resource(0, ge=0, le=1)
    max_failures_per_shard: int = resource(3, ge=1)
    shard_timeout_s: float = resource(3600.0, gt=0)
    max_wait_s: float = resource(1800.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.checkpoints and self.outputs:
            raise ConfigError(
                "evaluate.outputs",
                "left out while evaluate.checkpoints is given",
                self.outputs,
                "evaluate them in turn",
            )
        for field in ("checkpoints", "outputs"):
            for arm, given in getattr(self, field).items():
                if not given or len(set(given)) != len(given):
                    raise ConfigError(f"evaluate.{field}.{arm}", "one or more, each once", given, "name one per seed")
        return self
