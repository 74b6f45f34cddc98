"""Trains on a cluster whose only worker node is lost on the way, with all that it held; run by `test_lost_node.py`.

python lost_node.py CONFIG.json
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import ray
from leftovers import assert_gone, descendants
from ray.cluster_utils import Cluster

from sio_ray.config import Config, load_config
from sio_ray.stages.layout import train_runs
from sio_ray.stages.train import train


def has_a_checkpoint(config: Config) -> bool:
    """Whether Ray's own record, from which it resumes, names one."""
    (run,) = train_runs(config)
    records = run.place.folder.glob("ray_train/*/checkpoint_manager_snapshot.json")
    return any("checkpoint_dir_name" in path.read_text() for path in records)  # it may be half written


def main(config_file: str) -> None:
    """Lose the worker, the sets in its object store and its cores at once, after the first checkpoint; add a node."""
    # A node that does not answer is dead after 5 s, not after 15 s.
    settings = {"num_cpus": 0, "include_dashboard": False, "_system_config": {"health_check_period_ms": 1000}}
    cluster = Cluster(initialize_head=True, head_node_args=settings)
    node = cluster.add_node(num_cpus=1)
    config = load_config(config_file, [f"cluster.address={cluster.address}"])

    with ThreadPoolExecutor() as threads:  # as Ray starts nodes from the main thread only
        training = threads.submit(train, config)
        while not (training.done() or has_a_checkpoint(config)):
            time.sleep(0.02)
        processes = descendants()
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        training.result()
        processes |= descendants()
    # In this order: a driver whose node goes first ends with status 1, which a slow machine can make of any exit.
    ray.shutdown()
    cluster.shutdown()
    assert_gone(processes)


if __name__ == "__main__":
    main(*sys.argv[1:])
