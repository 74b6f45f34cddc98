"""The best, the front and the paired gain, against brute force."""

import itertools
import json

import numpy as np
import pytest

from sio_ray.search.goal import Goal, paired_gain, pareto_front
from sio_ray.search.trial import TrialResult, Validation


def result(auroc, accuracy=0.9, status="done"):
    return TrialResult(status, (Validation(10, {"near_auroc": (auroc,), "val_accuracy": (accuracy,)}),))


def test_the_front_is_what_no_other_dominates():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 6, (40, 2)) / 6
    results = {index: result(*map(float, point)) for index, point in enumerate(points)}
    front = pareto_front(results, ("near_auroc", "val_accuracy"))
    expected = [
        index
        for index, mine in enumerate(points)
        if not any((other >= mine).all() and (other != mine).any() for other in points)
    ]
    assert sorted(front) == expected
    for one, other in itertools.pairwise(front):
        assert tuple(points[one]) <= tuple(points[other])
        assert points[one][1] >= points[other][1]


def test_the_front_weighs_both_objectives_or_the_one_against_accuracy():
    assert Goal(("near_auroc",)).traded == ("near_auroc", "val_accuracy")
    assert Goal(("near_auroc", "far_auroc")).traded == ("near_auroc", "far_auroc")
    assert Goal(("val_accuracy", "near_auroc")).traded == ("val_accuracy", "near_auroc")
    assert Goal(("val_accuracy",)).traded == ("val_accuracy",)


def test_trials_that_were_stopped_or_failed_win_nothing():
    results = {0: result(0.5), 1: result(0.9, status="stopped"), 2: TrialResult("failed"), 3: result(0.7)}
    assert Goal(("near_auroc",)).best(results, [1, 2, 3]) == 3
    assert pareto_front(results, ("near_auroc", "val_accuracy")) == [3]


def test_the_first_of_equals_wins_and_the_baseline_of_all():
    results = {0: result(0.7), 1: result(0.8), 2: result(0.8), 3: result(0.7)}
    goal = Goal(("near_auroc",))
    assert goal.best(results, [1, 2, 3]) == 1
    assert goal.best(results, [3]) == 0


def test_the_constraint_is_measured_from_the_baseline():
    results = {0: result(0.5, 0.95), 1: result(0.9, 0.944), 2: result(0.8, 0.945)}
    assert Goal(("near_auroc",), 0.005).best(results, [1, 2]) == 2
    assert Goal(("near_auroc",), 0.006).best(results, [1, 2]) == 1
    assert Goal(("near_auroc",)).least_accuracy(results[0]) is None
    assert not Goal(("near_auroc",)).is_feasible(TrialResult("failed"), results[0])


def test_a_gain_is_paired_by_seed():
    def three(values):
        return TrialResult("done", (Validation(1, {"near_auroc": values}),))

    gain = paired_gain(three((0.9, 0.8, 0.7)), three((0.8, 0.7, 0.6)), "near_auroc")
    assert gain.mean == pytest.approx(0.1)
    assert gain.std == pytest.approx(0, abs=1e-12)
    assert paired_gain(three((0.9,)), TrialResult("failed"), "near_auroc") is None


def test_results_survive_json_to_the_bit():
    whole = TrialResult(
        "done", (Validation(7, {"near_auroc": (1 / 3, 0.1 + 0.2), "val_accuracy": (1e-17, 1.0)}),), 1.5, 2.5, 4.25, None
    )
    assert TrialResult.from_json(json.loads(json.dumps(whole.to_json()))) == whole
