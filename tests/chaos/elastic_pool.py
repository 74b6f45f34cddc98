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
from ray import cloudpickle
from ray.cluster_utils import Cluster

from sio_ray.generate.plan import Plan
from sio_ray.generate.pool import Pool
from sio_ray.generate.resources import Patience, PoolSize
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.storage import Folder

cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(class_names=("a", "b"), height_px=4, width_px=4, channels=1)
PLAN = Plan(num_images=300, class_weights=(1, 1), images_per_shard=5, sampler_batch_size=5, base_seed=1)


class SlowSampler:
    """Noise of the seed, at the pace of a model."""

    device_name = "cpu"

    def __init__(self, batch_s: float) -> None:
        self._batch_s = batch_s

    def sample(self, labels, seeds):
        time.sleep(self._batch_s)
        return np.stack([np.random.default_rng(seed).integers(0, 256, (1, 4, 4), dtype=np.uint8) for seed in seeds])


def write(folder: Folder, batch_s: float = 0.25) -> ShardWriter:
    return ShardWriter(SlowSampler(batch_s), PLAN, INFO, folder)


def main(uri: str, result: str) -> None:
    """Start with one place, get two more, lose them without notice, get another."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.connect()
    cluster.add_node(num_cpus=1)
    nodes = []
    seen = []

    def on_done(drawn) -> None:
        seen.append(pool.num_open)
        if len(seen) == 4:
            nodes.append(cluster.add_node(num_cpus=2))
        elif len(seen) == 30:
            cluster.remove_node(nodes[0], allow_graceful=False)
        elif len(seen) == 40:
            cluster.add_node(num_cpus=1)

    folder = Folder(uri)
    adopt = partial(adopt_shard, PLAN, INFO, folder, False)
    pool = Pool(partial(write, folder), adopt, PoolSize(0, 1, 0), Patience(), on_done)
    pool.run(range(PLAN.num_shards))
    folder.sweep()
    entries = {drawn.entry.name: drawn.entry.sha256 for drawn in pool.done.values()}
    # Not to standard output, where Ray prints what a node that is gone had logged.
    Path(result).write_text(json.dumps({"actors": seen, "entries": entries, "set_aside": pool.set_aside}))


if __name__ == "__main__":
    main(*sys.argv[1:])
