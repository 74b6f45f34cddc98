"""The loop: every step once, a report every n and at the end, and resuming leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sio_ray.errors import TrainingError
from sio_ray.training.loop import train


class Counter:
    """Its loss is the step; its state is the sum of all steps."""

    def __init__(self, broken_at: dict[int, float] | None = None) -> None:
        self.steps: list[int] = []
        self.total = 0
        self.broken_at = broken_at or {}

    def step(self, step: int) -> Tensor:
        self.steps.append(step)
        self.total += step
        return torch.tensor(float(self.broken_at.get(step, step)))

    def measure(self) -> dict[str, float]:
        return {"total": float(self.total)}

    def state(self) -> dict[str, Tensor]:
        return {"total": torch.tensor(self.total)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.total = int(state["total"])


class Memory:
    """A reporter that keeps everything."""

    def __init__(self, resumed=None, mean_over_workers=lambda values: values) -> None:
        self.resumed = resumed
        self.mean_over_workers = mean_over_workers
        self.progressed: list[int] = []
        self.reports: list[tuple[int, list[dict[str, float]], dict[str, Tensor]]] = []

    def resume(self):
        return self.resumed

    def average(self, values):
        return self.mean_over_workers(values)

    def progress(self, step):
        self.progressed.append(step)

    def report(self, step, points, state):
        self.reports.append((step, points, state()))


@pytest.mark.parametrize(
    ("num_steps", "every", "reported"),
    [(10, 4, [4, 8, 10]), (8, 4, [4, 8]), (3, 10, [3]), (1, 1, [1]), (3, 1, [1, 2, 3])],
)
def test_a_report_comes_every_n_steps_and_at_the_end(num_steps, every, reported):
    trainee, reporter = Counter(), Memory()
    points = train(trainee, num_steps=num_steps, report_every_steps=every, reporter=reporter)
    assert trainee.steps == list(range(num_steps))
    assert reporter.progressed == list(range(1, num_steps + 1))
    assert [step for step, _, _ in reporter.reports] == [p["step"] for p in points] == reported
    start = 0
    for point in points:
        done = list(range(start, point["step"]))
        assert point["loss"] == sum(done) / len(done), "the mean since the last report"
        assert point["total"] == sum(range(point["step"]))
        start = point["step"]
    for count, (_, curve, _) in enumerate(reporter.reports, start=1):
        assert curve == points[:count], "the whole curve so far"


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_resumed_run_goes_on_from_the_report_as_if_never_killed(killed_after):
    straight, trainee = Memory(), Counter()
    points = train(trainee, num_steps=10, report_every_steps=4, reporter=straight)
    step, curve, state = straight.reports[killed_after - 1]
    resumed, again = Memory((state, step, curve)), Counter()
    assert train(again, num_steps=10, report_every_steps=4, reporter=resumed) == points
    assert again.steps == list(range(step, 10))
    assert again.total == trainee.total
    assert resumed.reports == straight.reports[killed_after:]


REMEDY = (
    "lower the learning rate, or clip the gradient with gradient_clip_norm (the checkpoint of the last report is kept)."
)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_training_names_the_step_and_reports_nothing_more(value):
    reporter = Memory()
    with pytest.raises(TrainingError) as error:
        train(Counter({5: value}), num_steps=20, report_every_steps=4, reporter=reporter)
    assert str(error.value) == f"the loss of step 6 is {value}; {REMEDY}", "steps are counted from 1, as in the curve"
    assert [step for step, _, _ in reporter.reports] == [4]


class Broken(Counter):
    """Its step 8 has a finite loss, and leaves weights that measure nothing."""

    def measure(self) -> dict[str, float]:
        return {"val_accuracy": 0.5, "val_loss": math.nan if len(self.steps) >= 8 else 1.0}


def test_weights_that_a_step_broke_do_not_take_the_place_of_the_last_good_checkpoint():
    reporter = Memory()
    with pytest.raises(TrainingError) as error:
        train(Broken(), num_steps=20, report_every_steps=4, reporter=reporter)
    assert str(error.value) == f"val_loss after step 8 is nan; {REMEDY}"
    assert [step for step, _, _ in reporter.reports] == [4]


def test_between_reports_that_are_far_apart_the_loss_is_looked_at_too():
    trainee = Counter({130: math.nan, 150: math.inf})
    with pytest.raises(TrainingError, match=r"^the loss of step 131 is nan; "):
        train(trainee, num_steps=10_000, report_every_steps=10_000, reporter=Memory())
    assert len(trainee.steps) == 200


def test_the_reported_loss_is_the_mean_over_workers_so_all_of_them_stop_if_one_diverges():
    reporter = Memory(mean_over_workers=lambda values: values + 100)
    points = train(Counter(), num_steps=4, report_every_steps=4, reporter=reporter)
    assert points[0]["loss"] == 101.5
    diverged = Memory(mean_over_workers=lambda values: values + torch.tensor([0, 0, math.nan, 0]))
    with pytest.raises(TrainingError, match=r"^the loss of step 3 is nan; "):
        train(Counter(), num_steps=8, report_every_steps=4, reporter=diverged)
