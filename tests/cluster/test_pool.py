"""Generation by a pool: exactly once, the same bytes for any number of actors, whatever dies on the way."""

import hashlib
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ray import cloudpickle

from sio_ray.errors import GenerationError, ResourceError
from sio_ray.generate.plan import Plan
from sio_ray.generate.pool import PoolSize, draw_missing_shards
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.storage import Folder

# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=3)
PLAN = Plan(num_images=100, num_classes=3, images_per_shard=16, sampler_batch_size=5, base_seed=7)


class SeededSampler:
    """Draws noise from the seed alone; dies or fails on the way if told to."""

    def __init__(self, notes: Path, die_on=(), fail_on=()):
        self._notes, self._die_on, self._fail_on = notes, die_on, fail_on

    def sample(self, labels, seeds):
        for seed in seeds:
            if seed in self._die_on and self._first_time(seed):
                os._exit(1)
            if seed in self._fail_on:
                raise GenerationError(f"seed {seed} gives no picture")
        pictures = [np.random.default_rng(seed).integers(0, 256, INFO.image_shape, dtype=np.uint8) for seed in seeds]
        with (self._notes / str(os.getpid())).open("a") as stream:
            stream.write("".join(f"{seed}\n" for seed in seeds))
        return np.stack(pictures)

    def _first_time(self, seed):
        try:
            (self._notes / f"died-{seed}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def draw(folder, notes, num_actors=2, max_failures=3, **sampler):
    return draw_missing_shards(
        partial(SeededSampler, notes, **sampler),
        PLAN,
        INFO,
        Folder(str(folder)),
        PoolSize(num_actors, threads_per_actor=1, gpus_per_actor=0),
        max_failures_per_shard=max_failures,
    )


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("part-*"))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    notes = tmp_path_factory.mktemp("notes")
    entries = draw(folder, notes, num_actors=1)
    assert [entry.name for entry in entries] == sorted(digests(folder))
    assert {entry.name: entry.sha256 for entry in entries} == digests(folder)
    return digests(folder)


def test_four_actors_write_the_bytes_of_one(tmp_path, notes, undisturbed):
    draw(tmp_path / "set", notes, num_actors=4)
    assert digests(tmp_path / "set") == undisturbed


def test_actors_that_die_cost_nothing(tmp_path, notes, undisturbed):
    victims = [PLAN.shard(shard_id).seeds[3] for shard_id in (0, 2, 6)]
    draw(tmp_path / "set", notes, die_on=victims)
    assert len(list(notes.glob("died-*"))) == 3
    assert digests(tmp_path / "set") == undisturbed
    assert not list((tmp_path / "set").glob("*.partial"))


def test_a_shard_that_keeps_failing_is_set_aside_and_retried_alone(tmp_path, notes, undisturbed):
    bad = PLAN.shard(4).seeds[0]
    with pytest.raises(GenerationError) as error:
        draw(tmp_path / "set", notes, fail_on=[bad])
    assert str(error.value) == (
        "1 of 7 shards failed 3 times each: shards [4], labels [0, 1, 2]; the first error (shard 4): "
        f"seed {bad} gives no picture All other shards are kept; run the same command to retry only these."
    )
    assert len(digests(tmp_path / "set")) == 6
    again = tmp_path / "again"
    again.mkdir()
    draw(tmp_path / "set", again)
    assert digests(tmp_path / "set") == undisturbed
    drawn = {int(seed) for path in again.iterdir() for seed in path.read_text().split()}
    assert drawn == set(PLAN.shard(4).seeds)


def test_shards_that_are_not_what_the_plan_says_are_drawn_again(tmp_path, notes, undisturbed):
    draw(tmp_path / "set", notes)
    third = tmp_path / "set" / PLAN.shard(2).name
    third.write_bytes(third.read_bytes()[:-100])
    first, second = PLAN.shard(0).name, PLAN.shard(1).name
    (tmp_path / "set" / first).write_bytes((tmp_path / "set" / second).read_bytes())
    (tmp_path / "set" / second).unlink()
    draw(tmp_path / "set", notes)
    assert digests(tmp_path / "set") == undisturbed


def test_a_cluster_too_small_for_one_actor_is_an_error():
    with pytest.raises(ResourceError, match=r"^generate needs 64 CPUs and 0 GPUs for one actor, .* has 4 and 0"):
        PoolSize(0, threads_per_actor=64, gpus_per_actor=0).fit(10)
