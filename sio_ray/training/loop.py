"""The training loop: step, report, and continue where a killed run stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sio_ray.errors import TrainingError

Point = dict[str, float]

#: How often the loss is looked at between reports, which costs a wait for the GPU.
CHECK_EVERY_STEPS = 100


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

    def average(self, values: Tensor) -> Tensor:
        """The mean of each element over all workers of the run."""

    def progress(self, step: int) -> None:
        """Called after every step, before its report if it has one; must be cheap."""

    def report(self, step: int, points: list[Point], state: Callable[[], dict[str, Tensor]]) -> None:
        """Called with the whole curve at every report; `state` makes the tensors to keep."""


class SilentReporter:
    """A reporter for short runs of one worker: nothing is kept but what the trainee is at the end."""

    def resume(self) -> None:
        """The run starts from the beginning."""

    def average(self, values: Tensor) -> Tensor:
        """There is one worker."""
        return values

    def progress(self, step: int) -> None:
        """Nobody watches single steps."""

    def report(self, step: int, points: list[Point], state: Callable[[], dict[str, Tensor]]) -> None:
        """The end is what counts."""


def train(trainee: Trainee, *, num_steps: int, report_every_steps: int, reporter: Reporter) -> list[Point]:
    """Train to `num_steps`, from the start or from where the reporter says.

    Returns:
        The training curve: per report `step`, `loss` (mean since the last report) and what the trainee measures.

    Raises:
        TrainingError: the loss, or what the trainee measures, is not finite; the step is named, and the checkpoint of
            the last report stays.
    """
    start, points = 0, list[Point]()
    resumed = reporter.resume()
    if resumed is not None:
        state, start, points = resumed
        trainee.load_state(state)
    reported, losses = start, list[Tensor]()
    for step in range(start, num_steps):
        losses.append(trainee.step(step))
        done = step + 1
        if done % report_every_steps == 0 or done == num_steps:
            of_steps = reporter.average(torch.stack(losses))
            refuse_what_is_not_finite(of_steps, reported)
            reporter.progress(done)  # after the wait for the GPU, which belongs to the steps
            measured = trainee.measure()
            _refuse_to_keep(measured, done)
            points = [*points, {"step": done, "loss": of_steps.mean().item(), **measured}]
            reporter.report(done, points, trainee.state)
            reported = done
            losses.clear()
            continue
        if len(losses) % CHECK_EVERY_STEPS == 0:
            # Between reports that are far apart, without a word to the other workers: they end with this one.
            refuse_what_is_not_finite(torch.stack(losses[-CHECK_EVERY_STEPS:]), done - CHECK_EVERY_STEPS)
        reporter.progress(done)
    return points


def refuse_what_is_not_finite(losses: Tensor, start: int) -> None:
    """Stop at a loss that is not finite.

    Args:
        losses: of consecutive steps.
        start: steps done before the first of them.

    Raises:
        TrainingError: the first such step is named.
    """
    broken = ~losses.isfinite()
    if broken.any():
        first = int(broken.nonzero()[0])
        raise _diverged(f"the loss of step {start + first + 1}", losses[first].item())


def _refuse_to_keep(measured: Point, step: int) -> None:
    """Refuse weights that a step has broken although its loss, which is of the weights before, was still finite.

    Their checkpoint would take the place of the last good one.
    """
    for name, value in measured.items():
        if not math.isfinite(value):
            raise _diverged(f"{name} after step {step}", value)


def _diverged(what: str, value: float) -> TrainingError:
    return TrainingError(
        f"{what} is {value}; lower the learning rate, or clip the gradient with gradient_clip_norm (the checkpoint of "
        "the last report is kept)."
    )
