"""What a search found, as its record says it."""

from types import SimpleNamespace

import pytest

from sio_ray.search.goal import pareto_front
from sio_ray.tune.outcome import outcome_of
from tests.search.search_samples import SPACE, played, tuned


def outcome(config, space=SPACE):
    """The outcome of a search, and its results."""
    search, results = played(config, space)
    play = SimpleNamespace(results=results, planned={0: SimpleNamespace(config=config)}, num_reused=0, overheads_s=[])
    return outcome_of(config, space, search, play, SimpleNamespace(generate_s=0.0), wall_s=1.0), results


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
