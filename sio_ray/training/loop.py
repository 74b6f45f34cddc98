"""The training loop: step, report, and continue where a killed run stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sio_ray.errors import TrainingError

Point = dict[str, float]


class Trainee(Protocol):
    """Something that learns in numbered steps; everything random in a step is a function of its number."""

    def step(self, step: int) -> Tensor:
        """Do optimiser step `step` (from 0) and return its scalar loss, detached."""

    def measure(self) -> Point:
        """What else to put on the training curve now, such as validation accuracy."""

    def state(self) -> dict[str, Tensor]:
        """All that is needed to continue, as CPU tensors."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class Reporter(Protocol):
    """Where a loop's progress goes; one per way of running it (Ray Train, Ray Tune, none)."""

    def resume(self) -> tuple[dict[str, Tensor], int, list[Point]] | None:
        """State, step and curve to continue from, or None to start."""

    def average(self, value: Tensor) -> float:
        """The mean of a scalar over all workers of the run."""

    def progress(self, step: int) -> None:
        """Called after every step; must be cheap."""

    def report(self, step: int, points: list[Point], state: Callable[[], dict[str, Tensor]]) -> None:
        """Called with the whole curve at every report; `state` makes the tensors to keep."""


def train(trainee: Trainee, *, num_steps: int, report_every_steps: int, reporter: Reporter) -> list[Point]:
    """Train to `num_steps`, from the start or from where the reporter says.

    Returns:
        The training curve: per report `step`, `loss` (mean since the last report) and what the trainee measures.

    Raises:
        TrainingError: the loss is not finite; the checkpoint of the last report stays.
    """
    start, points = 0, list[Point]()
    resumed = reporter.resume()
    if resumed is not None:
        state, start, points = resumed
        trainee.load_state(state)
    losses: list[Tensor] = []
    for step in range(start, num_steps):
        losses.append(trainee.step(step))
        done = step + 1
        reporter.progress(done)
        if done % report_every_steps == 0 or done == num_steps:
            loss = reporter.average(torch.stack(losses).mean())
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} between steps {done - len(losses)} and {done}; "
                    "lower the learning rate (the checkpoint before it is kept)."
                )
            points = [*points, {"step": done, "loss": loss, **trainee.measure()}]
            losses.clear()
            reporter.report(done, points, trainee.state)
    return points
