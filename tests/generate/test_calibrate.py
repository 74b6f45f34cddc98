"""Measuring a sampler: every size up to the first that does not fit, or past which more is of no use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sio_ray.generate import calibrate as module
from sio_ray.generate.calibrate import calibrate
from sio_ray.generate.plan import Plan
from sio_ray.imageset.pictures import encode_png

PLAN = Plan(num_images=100, class_weights=(1, 1, 1), images_per_shard=50, sampler_batch_size=8, base_seed=0)
SIZES = [1, 2, 4, 8, 16, 32, 64]


class Clock:
    """A clock that only samplers advance, as what a busy machine measures of itself is noise."""

    now_s = 0.0

    def perf_counter(self):
        return self.now_s


CLOCK = Clock()


class TimedSampler:
    """Draws black pictures; a batch takes its own time, and no more than so many fit."""

    def __init__(self, batch_s, largest=10**6, device_name="cpu AVX2"):
        self._batch_s, self._largest, self.device_name = batch_s, largest, device_name

    def sample(self, labels, seeds):
        np.testing.assert_array_equal(labels, np.arange(len(labels)) % 3)
        if len(labels) > self._largest:
            raise torch.OutOfMemoryError
        CLOCK.now_s += self._batch_s(len(labels))
        return np.zeros((len(labels), 1, 8, 8), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _measure_briefly(monkeypatch):
    monkeypatch.setattr(module, "_MEASURE_S", 0.02)
    monkeypatch.setattr(module, "time", CLOCK)


def test_the_largest_that_fits_is_found_and_the_next_is_said_not_to(monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    sampler = TimedSampler(lambda size: 0.001, largest=20, device_name="a GPU")
    measured = calibrate(sampler, PLAN, SIZES)
    assert [row.sampler_batch_size for row in measured] == [1, 2, 4, 8, 16, 32]
    assert [row.images_per_s is None for row in measured] == [False] * 5 + [True]


def test_on_a_cpu_it_ends_when_more_is_no_faster():
    measured = calibrate(TimedSampler(lambda size: 0.004 * max(size, 2) / 2), PLAN, SIZES)
    speeds = {row.sampler_batch_size: row.images_per_s for row in measured}
    assert PLAN.sampler_batch_size in speeds, "the size of the plan is always measured"
    assert len(speeds) < len(SIZES)
    assert speeds[2] / speeds[1] == pytest.approx(2)


def test_speed_and_size_are_those_of_the_pictures():
    (row,) = calibrate(TimedSampler(lambda size: 0.01), PLAN, [8])
    assert row.images_per_s == pytest.approx(800)
    assert row.bytes_per_image == len(encode_png(np.zeros((1, 8, 8), dtype=np.uint8)))
    assert row.peak_gpu_bytes is None
