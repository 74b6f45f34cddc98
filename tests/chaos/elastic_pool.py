"""Draws a set on a cluster of several nodes that grows and shrinks on the way; run by `test_elastic_pool.py`.

python elastic_pool.py FOLDER RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import ray
from leftovers import assert_gone, descendants
from ray import cloudpickle
from ray.cluster_utils import Cluster

from sio_ray.generate.actors import DRAWING
from sio_ray.generate.plan import Plan
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.storage import Folder
from sio_ray.pool.messages import UnitDone
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize

cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(class_names=("a", "b"), height_px=4, width_px=4, channels=1)
PLAN = Plan(num_images=1000, class_weights=(1, 1), images_per_shard=5, sampler_batch_size=5, base_seed=1)


class SlowSampler:
    """Noise of the seed, at the pace of a model until all has happened that is to happen while it draws."""

    device_name = "cpu"

    def __init__(self, happened: Path) -> None:
        self._happened = happened

    def sample(self, labels, seeds):
        if not self._happened.exists():
            time.sleep(0.25)
        return np.stack([np.random.default_rng(seed).integers(0, 256, (1, 4, 4), dtype=np.uint8) for seed in seeds])


def write(folder: Folder, happened: Path) -> ShardWriter:
    return ShardWriter(SlowSampler(happened), PLAN, INFO, folder)


def main(uri: str, result: str) -> None:
    """Start with one place, get two more, lose them without notice, get another."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.connect()
    cluster.add_node(num_cpus=1)
    happened, nodes, seen, processes = Path(f"{result}.happened"), [], [], set()

    def on_news(news) -> None:
        if not isinstance(news, UnitDone):
            return
        seen.append(pool.num_open)
        if len(seen) == 4:
            nodes.append(cluster.add_node(num_cpus=2))
        elif pool.num_open == 3 and len(nodes) == 1:
            processes.update(descendants())
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))
        elif pool.num_open < 3 and len(nodes) == 2:
            happened.touch()

    folder = Folder(uri)
    adopt = partial(adopt_shard, PLAN, INFO, folder, False)
    pool = Pool(DRAWING, partial(write, folder, happened), PoolSize(0, 1, 0), Patience(), adopt=adopt, on_news=on_news)
    pool.run(range(PLAN.num_shards))
    folder.sweep()
    entries = {drawn.entry.name: drawn.entry.sha256 for drawn in pool.done.values()}
    # Not to standard output, where Ray prints what a node that is gone had logged.
    Path(result).write_text(json.dumps({"actors": seen, "entries": entries, "set_aside": pool.set_aside}))
    # In this order: a driver whose node goes first ends with status 1, which a slow machine can make of any exit.
    processes |= descendants()
    ray.shutdown()
    cluster.shutdown()
    assert_gone(processes)


if __name__ == "__main__":
    main(*sys.argv[1:])
