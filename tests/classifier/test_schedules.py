"""Schedules: end points, shapes against their formulas, and that a ramp never leaves its two ends."""

from __future__ import annotations

import itertools
import math

import pytest

from sio_ray.classifier.schedules import learning_rate, num_steps_of, ramped
from sio_ray.config import RampConfig, TrainConfig
from sio_ray.errors import ConfigError


def test_learning_rate_is_a_cosine_from_its_peak_to_almost_zero():
    config = TrainConfig(num_steps=200, learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[100] == pytest.approx((0.1 + 1e-6) / 2)
    assert rates[200] == pytest.approx(1e-6)
    assert rates[50] == pytest.approx(1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi / 4)) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_a_learning_rate_below_its_end_does_not_rise():
    config = TrainConfig(num_steps=100, learning_rate=1e-7, warmup_steps=0)
    assert {learning_rate(step, config) for step in range(100)} == {1e-7}


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_learning_rate_warms_up_in_a_line_to_its_peak(schedule):
    config = TrainConfig(num_steps=100, learning_rate=0.4, warmup_steps=8, schedule=schedule)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[:8] == pytest.approx([0.05 * n for n in range(1, 9)])
    assert rates[8] == max(rates) == pytest.approx(0.4)


def test_a_step_schedule_is_a_staircase_at_its_milestones():
    config = TrainConfig(num_steps=10, learning_rate=1.0, schedule="step", step_milestones=(0.3, 0.55), step_factor=0.1)
    assert [learning_rate(step, config) for step in range(10)] == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 4)


@pytest.mark.parametrize(("num_real", "steps"), [(1, 3), (127, 3), (128, 3), (129, 6), (50_000, 3 * 391)])
def test_epochs_are_counted_in_batches_of_the_real_set(num_real, steps):
    assert num_steps_of(TrainConfig(num_epochs=3, num_steps=7, global_batch_size=128), num_real) == steps
    assert num_steps_of(TrainConfig(num_steps=7), num_real) == 7


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.8), (0.0, 2.0)])
def test_a_ramp_goes_from_its_start_to_the_end_and_stays_there(shape, start, end):
    ramp = RampConfig(start=start, shape=shape, num_steps=40)
    values = [ramped(end, ramp, step, 100) for step in range(101)]
    assert values[0] == start
    assert values[40:] == [end] * 61
    assert values[20] == pytest.approx((start + end) / 2), "both shapes are half-way in the middle"
    assert all((b - a) * (end - start) > 0 for a, b in itertools.pairwise(values[:41])), "without turning back"
    quarter = 0.25 if shape == "linear" else (1 - math.cos(math.pi / 4)) / 2
    assert values[10] == pytest.approx(start + (end - start) * quarter)


def test_a_ramp_of_steps_jumps_and_has_no_length_of_its_own():
    ramp = RampConfig(start=1.0, shape="steps", jumps=((50, 0.9), (70, 0.6)))
    assert [ramped(0.8, ramp, step, 100) for step in (0, 49, 50, 69, 70, 99)] == [1.0, 1.0, 0.9, 0.9, 0.6, 0.6]
    with pytest.raises(ConfigError, match=r"^train\.real_weight_ramp\.num_steps must be left out for shape steps, who"):
        TrainConfig(real_weight_ramp={"start": 1.0, "shape": "steps", "jumps": [[50, 0.9]], "num_steps": 5})


def test_a_ramp_without_a_length_takes_the_whole_run_and_no_ramp_is_constant():
    assert ramped(0.8, RampConfig(start=1.0), 50, 100) == pytest.approx(0.9)
    assert ramped(0.8, RampConfig(start=1.0), 100, 100) == 0.8
    assert ramped(0.8, None, 3, 100) == 0.8
