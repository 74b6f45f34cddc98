"""The stages: each finds its inputs, does only what is missing, and records what it did."""

from __future__ import annotations

from collections.abc import Callable

from sio_ray.config import Config
from sio_ray.stages.record import Outcome


def stage_function(stage: str) -> Callable[[Config], Outcome]:
    """The function that runs a stage; its module is imported only now, as some take seconds.

    Args:
        stage: one of `sio_ray.config.STAGES`.
    """
    match stage:
        case "prepare":
            from sio_ray.stages.prepare import prepare as run
        case "fit-generator":
            from sio_ray.stages.fit_generator import fit_generator as run
        case "generate":
            from sio_ray.stages.generate import generate as run
        case "train":
            from sio_ray.stages.train import train as run
        case "evaluate":
            from sio_ray.stages.evaluate import evaluate as run
        case "tune":
            from sio_ray.tune.stage import tune as run
        case "report":
            from sio_ray.stages.report import report as run
        case _:
            raise ValueError(f"no stage {stage!r}")
    return run
