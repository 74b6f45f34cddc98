"""Draws a long stream of small shards, on whose actors the faults of `generation.py` come; a driver, to be killed too.

python stream.py URI CONTROL NUM_SHARDS
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
from ray import cloudpickle

from sio_ray.cluster import connect
from sio_ray.config import ClusterConfig
from sio_ray.errors import GenerationError, SioRayError
from sio_ray.generate.actors import DRAWING
from sio_ray.generate.notes import DrawnShard, delete_notes, survey
from sio_ray.generate.plan import Plan
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSetInfo, Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize

cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(class_names=("a", "b"), height_px=4, width_px=4, channels=1)

#: Seconds of a shard while faults are still to come; afterwards none.
PACE_S = 0.5

#: What a sampler that leaks loses with each shard, and when its actor is recycled.
LEAK_BYTES = 150_000_000
PATIENCE = Patience(unit_timeout_s=15, memory_limit_bytes=700_000_000)


def plan_of(num_shards: int) -> Plan:
    """Five pictures a shard."""
    return Plan(5 * num_shards, class_weights=(1, 1), images_per_shard=5, sampler_batch_size=5, base_seed=1)


def make_control(folder: Path, *, hurry: bool = False) -> Path:
    """The folder by which a stream is steered, and says what it does; at the pace of a model, unless it is to hurry."""
    for name in ("orders", "claimed", "log"):
        (folder / name).mkdir(parents=True)
    if hurry:
        (folder / "hurry").touch()
    return folder


class PacedSampler:
    """Noise of the seed, at the pace of a model until `hurry` is there."""

    device_name = "cpu"

    def __init__(self, hurry: Path) -> None:
        self._hurry = hurry

    def sample(self, labels, seeds):  # type: ignore[no-untyped-def]
        """As every sampler."""
        if not self._hurry.exists():
            time.sleep(PACE_S)
        return np.stack([np.random.default_rng(seed).integers(0, 256, (1, 4, 4), dtype=np.uint8) for seed in seeds])


class FaultyWriter:
    """Writes shards, says so in `log/<pid>`, and does what the next file in `orders` tells it."""

    def __init__(self, num_shards: int, folder: Folder, control: Path) -> None:
        plan = plan_of(num_shards)
        self._writer = ShardWriter(PacedSampler(control / "hurry"), plan, INFO, folder)
        self._name_of, self._folder, self._control = plan.shard_name, folder, control
        self._leaked: list[bytes] | None = None
        self._lock = threading.Lock()

    def do(self, shard_id: int) -> DrawnShard:
        """Draw a shard, or meet a fault."""
        is_there = self._folder.exists(self._name_of(shard_id))
        self._say(f"begin {shard_id} {int(is_there)}")
        self._meet(shard_id)
        if self._leaked is not None:
            self._leaked.append(b"\1" * LEAK_BYTES)
        drawn = self._writer.do(shard_id)
        self._say(f"end {shard_id}")
        return drawn

    def _say(self, what: str) -> None:
        with self._lock, (self._control / "log" / str(os.getpid())).open("a") as stream:
            stream.write(f"{what}\n")

    def _meet(self, shard_id: int) -> None:
        for order in sorted((self._control / "orders").iterdir()):
            try:
                order.rename(self._control / "claimed" / f"{order.name}.{os.getpid()}.{shard_id}")
            except FileNotFoundError:
                continue  # another actor was first
            match order.suffix:
                case ".raise":
                    raise GenerationError("this sampler was told to fail")
                case ".hang":
                    time.sleep(3600)
                case ".leak":
                    self._leaked = []


def draw_alone(num_shards: int, folder: Path) -> dict[str, str]:
    """The set as one process draws it that nobody disturbs: name of each shard to its SHA-256."""
    control = make_control(folder / "control", hurry=True)
    writer, plan = FaultyWriter(num_shards, Folder(str(folder / "set")), control), plan_of(num_shards)
    digests = {plan.shard_name(k): writer.do(k).entry.sha256 for k in range(num_shards)}
    shutil.rmtree(folder)
    return digests


def draw(uri: str, control: Path, num_shards: int) -> None:
    """Do what the stage does: draw what is missing, then commit the set."""
    plan, folder = plan_of(num_shards), Folder(uri)
    connect(ClusterConfig())
    found = survey(folder, plan)
    pool = Pool(
        DRAWING,
        partial(FaultyWriter, num_shards, folder, control),
        PoolSize(num_actors=0, threads_per_actor=1, gpus_per_actor=0),
        PATIENCE,
        adopt=partial(adopt_shard, plan, INFO, folder, False),
    )
    pool.run(found.missing, found.unnoted)
    if pool.set_aside:
        raise GenerationError(f"shards were set aside: {dict(itertools.islice(pool.set_aside.items(), 5))}")
    drawn = {**found.noted, **pool.done}
    entries = tuple(drawn[k].entry for k in range(num_shards))
    folder.sweep()
    Manifest(info=INFO, num_images=plan.num_images, class_counts=plan.class_counts(), shards=entries).write(folder)
    delete_notes(folder)


if __name__ == "__main__":
    try:
        draw(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    except SioRayError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
