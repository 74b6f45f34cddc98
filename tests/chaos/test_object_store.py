"""A set is drawn onto an object store that fails, by actors that die: each image is there once, none is different."""

import os
import sys
from functools import partial

import numpy as np
import pytest
from faulty_s3 import CREDENTIALS, faulty_store, no_fault, seeded
from ray import cloudpickle

from sio_ray.errors import GenerationError, ImageSetError
from sio_ray.generate.actors import DRAWING
from sio_ray.generate.notes import delete_notes, survey
from sio_ray.generate.plan import Plan
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSet, ImageSetInfo, Manifest, clients
from sio_ray.imageset.storage import Folder
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize

# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.slow

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


def write(folder, grave, num_attempts):
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


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The set as one process writes it on a disk."""
    folder, grave = Folder(str(tmp_path_factory.mktemp("set"))), tmp_path_factory.mktemp("grave")
    writer = write(folder, grave, clients.NUM_ATTEMPTS)
    entries = tuple(writer.do(k).entry for k in range(PLAN.num_shards))
    return {entry.name: (entry.sha256, folder.read_bytes(entry.name)) for entry in entries}


@pytest.fixture
def store(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with faulty_store("sets") as store:
        yield store
    clients.open_uri.cache_clear()


def folder_of(store, name):
    # Ray's workers may be older than this test and its environment: the URI tells them all.
    return Folder(store.uri(f"me:secret@sets/{name}") + "&region=us-east-1")


def check_set(store, folder, expected):
    """The set is finished, holds each image once, and nothing else lies beside it."""
    store.rule = no_fault
    assert {shard.name: shard.sha256 for shard in Manifest.read(folder).shards} == {
        name: sha256 for name, (sha256, _) in expected.items()
    }
    assert {name: folder.read_bytes(name) for name in expected} == {name: data for name, (_, data) in expected.items()}
    arrays = ImageSet(folder.uri).read()
    assert np.array_equal(arrays.image_ids, np.arange(PLAN.num_images))
    assert set(folder.files(below=True)) == {*expected, "manifest.json"}


def test_a_third_of_all_requests_fail_and_an_actor_dies(ray_cluster, store, expected, tmp_path):
    folder = folder_of(store, "third")
    store.rule = seeded(1, 0.3, "refuse", "lose_answer", "cut_upload", "cut_download", "delay")
    draw(folder, tmp_path / "grave")
    faults = [fault for _, fault in store.seen if fault is not None]
    assert (tmp_path / "grave").exists()
    assert len(faults) > 20
    check_set(store, folder, expected)


def test_a_store_that_goes_away_and_comes_back(ray_cluster, store, expected, tmp_path):
    folder = folder_of(store, "away")
    (tmp_path / "grave").touch()  # nobody dies here
    store.rule = lambda request: "refuse" if request.method in ("PUT", "POST") and request.index > 40 else None
    with pytest.raises(
        GenerationError, match=r"nothing could be written, .*cannot write s3://me:\*\*\*@sets/away/.*part-"
    ):
        draw(folder, tmp_path / "grave", num_attempts=1, patience=Patience(max_trouble_in_a_row=3))
    there = set(folder.list())
    assert 0 < len(there) < PLAN.num_shards
    with pytest.raises(ImageSetError, match="is unfinished"):
        Manifest.read(folder)

    store.rule = no_fault
    drawn = draw(folder, tmp_path / "grave")
    assert {PLAN.shard_name(k) for k in drawn} == expected.keys() - there, "a finished shard was drawn again"
    check_set(store, folder, expected)
