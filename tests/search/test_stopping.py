"""Stopping rules: the same decisions as Ray's schedulers, where these see trials one after the other."""

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from sio_ray.search.stopping import floors, rungs
from sio_ray.search.trial import Floors, TrialResult, Validation
from tests.search.search_samples import tuned


class Controller:
    """As much of Tune's controller as its schedulers look at."""

    def get_live_trials(self):
        return []


class OneTrial:
    """As much of Tune's trial as its schedulers look at."""

    def __init__(self, number):
        self.trial_id = f"t{number:03d}"
        self.status = "RUNNING"
        self.is_saving = False

    def __hash__(self):
        return hash(self.trial_id)

    def is_finished(self):
        return False


def curve_of(values):
    return tuple(Validation(number + 1, {"near_auroc": (value,)}) for number, value in enumerate(values))


def decide(section, curves):
    """Our decisions: how many validations each trial has, and whether it was stopped, one after the other."""
    known, lengths = [], []
    for curve in curves:
        rule = floors(section, known)
        stops = [number for number in range(len(curve)) if rule.stop(list(curve[: number + 1]))]
        length = stops[0] + 1 if stops else len(curve)
        known.append(TrialResult("stopped" if stops else "done", curve_of(curve[:length])))
        lengths.append((length, bool(stops) and length < len(curve)))
    return lengths


def decide_as_ray(scheduler, curves):
    controller, lengths = Controller(), []
    for number, curve in enumerate(curves):
        trial = OneTrial(number)
        scheduler.on_trial_add(controller, trial)
        for step, value in enumerate(curve, start=1):
            result = {"training_iteration": step, "near_auroc": value}
            action = scheduler.on_trial_result(controller, trial, result)
            if action == TrialScheduler.STOP and step < len(curve):
                break
        lengths.append((step, step < len(curve)))
    return lengths


@pytest.mark.parametrize("seed", range(3))
def test_asha_stops_what_rays_scheduler_stops(seed):
    section = tuned("stopping=asha", "num_validations=9", "reduction_factor=3").tune
    curves = np.random.default_rng(seed).random((30, 9))
    scheduler = AsyncHyperBandScheduler(
        time_attr="training_iteration",
        metric="near_auroc",
        mode="max",
        max_t=9,
        grace_period=1,
        reduction_factor=3,
    )
    ours = decide(section, curves)
    assert ours == decide_as_ray(scheduler, curves)
    assert 0 < sum(stopped for _, stopped in ours) < len(curves)


@pytest.mark.parametrize("seed", range(3))
def test_the_median_rule_stops_what_rays_stops(seed):
    section = tuned("stopping=median", "num_validations=6").tune
    curves = np.random.default_rng(seed).random((30, 6))
    curves[:, 0] = 0.5  # Ray's grace period takes values out of the means, too; so neither rule has a say at first
    scheduler = MedianStoppingRule(
        time_attr="training_iteration", metric="near_auroc", mode="max", grace_period=1, min_samples_required=3
    )
    ours = decide(section, curves)
    assert ours == decide_as_ray(scheduler, curves)
    assert 0 < sum(stopped for _, stopped in ours) < len(curves)


def test_rungs_divide_the_run_by_the_factor():
    assert rungs(9, 3) == [0, 2]
    assert rungs(27, 3) == [0, 2, 8]
    assert rungs(8, 2) == [0, 1, 3]
    assert rungs(4, 4) == [0]
    assert rungs(3, 4) == []


def test_asha_keeps_one_in_so_many_of_ordered_trials():
    # Trials that come from the best to the worst: only those above the percentile of the better ones go on.
    section = tuned("stopping=asha", "num_validations=4", "reduction_factor=4").tune
    curves = [[1 - number / 100] * 4 for number in range(40)]
    lengths = decide(section, curves)
    assert lengths[0] == (4, False)
    assert all(length == (1, True) for length in lengths[1:])


def test_floors_compare_the_last_or_the_best_value():
    now, best = Floors("now", (None, 0.5)), Floors("best", (None, 0.5))
    assert not now.stop([0.1])
    assert now.stop([0.6, 0.4])
    assert not now.stop([0.6, 0.5])
    assert not best.stop([0.6, 0.4])
    assert best.stop([0.4, 0.4])
    assert not Floors().stop([0.0])


def test_trials_without_a_curve_set_no_floor():
    section = tuned("stopping=asha", "num_validations=9").tune
    assert floors(section, [TrialResult("failed"), TrialResult("diverged")]).values == (None,) * 9
