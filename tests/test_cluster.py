"""Work that a cluster could never place is refused in one line, as Ray would wait for it without end."""

from __future__ import annotations

import pytest
import ray

from sio_ray.cluster import check_workers
from sio_ray.config import TrainConfig
from sio_ray.errors import ResourceError
from sio_ray.stages.train import fewest_workers

#: Two nodes that live, and one that is dead.
NODES = [
    {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0, "memory": 1e9}},
    {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 3.0}},
    {"Alive": True, "Resources": {"object_store_memory": 1e9}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray says of a cluster of these nodes."""
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 6.0, "GPU": 4.0})


@pytest.mark.parametrize(
    ("num_workers", "cpus", "gpus", "num_runs"), [(6, 1, 0, 1), (4, 1, 1, 1), (1, 3, 1, 2), (1, 3, 3, 1), (2, 1, 1, 2)]
)
def test_workers_that_fit_pass(num_workers: int, cpus: int, gpus: int, num_runs: int) -> None:
    check_workers("train", num_workers=num_workers, cpus_per_worker=cpus, gpus_per_worker=gpus, num_runs=num_runs)


@pytest.mark.parametrize(
    ("num_workers", "cpus", "gpus", "num_runs", "message"),
    [
        (
            *(5, 1, 1, 1),
            "train needs 5 GPUs at once, this Ray cluster has 4; ask for fewer, set its gpus_per_* field to 0 to run "
            "on CPUs, or connect to a larger cluster by cluster.address.",
        ),
        (
            *(4, 1, 0, 2),
            "train needs 8 CPUs at once, this Ray cluster has 6; ask for fewer runs, workers or cores, or connect to a "
            "larger cluster by cluster.address.",
        ),
        (
            *(3, 2, 0, 1),
            "train needs 3 workers of 2 CPUs at once, each on one node, the nodes of this Ray cluster have room for 2; "
            "ask for fewer or smaller workers, or connect to a larger cluster by cluster.address.",
        ),
        (
            *(1, 4, 1, 1),
            "train needs 1 workers of 4 CPUs and 1 GPUs at once, each on one node, the nodes of this Ray cluster have "
            "room for 0; ask for fewer or smaller workers, or connect to a larger cluster by cluster.address.",
        ),
    ],
)
def test_workers_that_do_not_are_refused(num_workers: int, cpus: int, gpus: int, num_runs: int, message: str) -> None:
    with pytest.raises(ResourceError) as error:
        check_workers("train", num_workers=num_workers, cpus_per_worker=cpus, gpus_per_worker=gpus, num_runs=num_runs)
    assert str(error.value) == message


def test_a_run_that_may_shrink_needs_no_more_than_its_fewest_workers_and_several_must_not_starve_each_other() -> None:
    assert fewest_workers(TrainConfig(num_workers=8), 1) == 8
    assert fewest_workers(TrainConfig(num_workers=8, min_workers=2), 1) == 2
    assert fewest_workers(TrainConfig(num_workers=8, min_workers=2), 2) == 8
