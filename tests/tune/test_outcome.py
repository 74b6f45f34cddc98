"""What a search found, as its record says it."""

from types import SimpleNamespace

import pytest

from sio_ray.config import with_overrides
from sio_ray.search.goal import pareto_front
from sio_ray.tune.outcome import outcome_of
from tests.search.search_samples import SPACE, played, tuned


def outcome(config, space=SPACE):
    """The outcome of a search, and its results."""
    search, results = played(config, space)
    play = SimpleNamespace(results=results, planned={0: SimpleNamespace(config=config)}, num_reused=0, overheads_s=[])
    return outcome_of(config, space, search, play, SimpleNamespace(generate_s=0.0, num_real=861), wall_s=1.0), results


@pytest.mark.parametrize(
    ("objectives", "traded"),
    [
        ("near_auroc", ("near_auroc", "val_accuracy")),
        ("near_auroc,far_auroc", ("near_auroc", "far_auroc")),
        ("val_accuracy,near_auroc", ("val_accuracy", "near_auroc")),
    ],
)
def test_the_front_is_that_of_the_objectives(objectives, traded):
    found, results = outcome(tuned("num_trials=9", f"objectives=[{objectives}]", "confirm_seeds=[]"))
    assert found["pareto"] == pareto_front(results, traded)


def test_the_best_schedule_is_in_the_steps_of_the_config_that_it_is_for():
    options = ("algorithm=pbt", "num_trials=8", "num_validations=4", "search_seed=6")
    found, _ = outcome(tuned(*options))
    jumps = found["best_values"]["train.real_weight_ramp"]["jumps"]
    assert jumps
    longer = with_overrides(tuned(*options), {"train.num_steps": 4000})
    found, _ = outcome(longer)
    assert found["best_values"]["train.real_weight_ramp"]["jumps"] == [[10 * step, value] for step, value in jumps]
    confirmed = found["trials"][-1]
    assert confirmed["phase"] == "confirm"
    assert confirmed["values"]["train.real_weight_ramp"]["jumps"] == jumps, "a trial's own steps are fewer"
