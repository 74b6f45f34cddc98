"""A set of noise that is drawn by actors as the stage does it, and by one process without any."""

import os
import sys
from functools import partial

import numpy as np
from ray import cloudpickle

from sio_ray.generate.actors import DRAWING
from sio_ray.generate.notes import delete_notes, survey
from sio_ray.generate.plan import Plan
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSet, ImageSetInfo, Manifest, clients
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize

# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(class_names=("a", "b", "c"), height_px=16, width_px=16, channels=3)
PLAN = Plan(num_images=96, class_weights=(1, 1, 1), images_per_shard=8, sampler_batch_size=8, base_seed=3)


class MortalSampler:
    """Noise of the seed; the first time that it meets its last seed, it takes its process along."""

    device_name = "cpu"

    def __init__(self, last_seed, grave):
        self._last_seed, self._grave = last_seed, grave

    def sample(self, labels, seeds):
        if self._last_seed in seeds and not self._grave.exists():
            self._grave.touch()
            os._exit(1)
        return np.stack(
            [np.random.default_rng(seed).integers(0, 256, INFO.image_shape, dtype=np.uint8) for seed in seeds]
        )


def write(folder, grave, num_attempts=clients.NUM_ATTEMPTS):
    """What an actor draws with; it dies once, unless there is something in its grave."""
    clients.NUM_ATTEMPTS = num_attempts
    return ShardWriter(MortalSampler(PLAN.seed(int(PLAN.places(5)[2])), grave), PLAN, INFO, folder)


def draw(folder, grave, num_attempts=clients.NUM_ATTEMPTS, patience=Patience()):  # noqa: B008 - frozen
    """Do what the stage does: draw what is missing, then commit the set; returns what was drawn now."""
    found = survey(folder, PLAN)
    pool = Pool(
        DRAWING,
        partial(write, folder, grave, num_attempts),
        PoolSize(num_actors=3, threads_per_actor=1, gpus_per_actor=0),
        patience,
        adopt=partial(adopt_shard, PLAN, INFO, folder, False),
    )
    pool.run(found.missing, found.unnoted)
    assert pool.set_aside == {}
    shards = {**found.noted, **pool.done}
    entries = tuple(shards[k].entry for k in range(PLAN.num_shards))
    Manifest(info=INFO, num_images=PLAN.num_images, class_counts=PLAN.class_counts(), shards=entries).write(folder)
    delete_notes(folder)
    return found.missing


def drawn_alone(folder, grave):
    """The set as one process writes it on a disk: name to hash and bytes of each shard."""
    grave.touch()
    writer = write(folder, grave)
    entries = tuple(writer.do(k).entry for k in range(PLAN.num_shards))
    return {entry.name: (entry.sha256, folder.read_bytes(entry.name)) for entry in entries}


def check_set(folder, expected):
    """The set is finished, holds each image once, and nothing else lies beside it."""
    assert {shard.name: shard.sha256 for shard in Manifest.read(folder).shards} == {
        name: sha256 for name, (sha256, _) in expected.items()
    }
    assert {name: folder.read_bytes(name) for name in expected} == {name: data for name, (_, data) in expected.items()}
    arrays = ImageSet(folder.uri).read()
    assert np.array_equal(arrays.image_ids, np.arange(PLAN.num_images))
    assert set(folder.files(below=True)) == {*expected, "manifest.json"}
