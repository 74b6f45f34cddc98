"""Generation by a pool: exactly once, the same bytes for any number of actors, whatever dies on the way."""

import hashlib
import os
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ray import cloudpickle

from sio_ray.errors import ConfigError, GenerationError, ResourceError
from sio_ray.generate.actors import DRAWING
from sio_ray.generate.notes import NOTES_FOLDER, survey
from sio_ray.generate.plan import Plan
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.storage import Folder
from sio_ray.pool import pool as pool_module
from sio_ray.pool import schedule as schedule_module
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize

# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=3)
PLAN = Plan(num_images=100, class_weights=(1, 1, 1), images_per_shard=16, sampler_batch_size=5, base_seed=7)


@dataclass
class SeededSampler:
    """Draws noise from the seed alone; at certain seeds it dies, fails, hangs or is slow, once or always.

    Attributes:
        notes: folder where it writes what it drew, by process.
        die_on, hang_on: seeds at which that happens the first time.
        fail_on, always_hang_on, always_die_on: seeds at which it happens every time.
        raises: what it raises.
        leak_bytes: memory that it loses with every batch.
        hangs_at_first: the first one hangs when it is made.
    """

    notes: Path
    die_on: tuple = ()
    hang_on: tuple = ()
    fail_on: tuple = ()
    always_hang_on: tuple = ()
    always_die_on: tuple = ()
    raises: Exception = field(default_factory=lambda: GenerationError("this seed gives no picture"))
    leak_bytes: int = 0
    leaked: list = field(default_factory=list)
    hangs_at_first: bool = False
    device_name = "cpu"

    def __post_init__(self):
        if self.hangs_at_first and self._first_time("made"):
            time.sleep(600)

    def sample(self, labels, seeds):
        self.leaked.append(b"x" * self.leak_bytes)
        for seed in seeds:
            if seed in self.always_die_on or (seed in self.die_on and self._first_time(seed)):
                os._exit(1)
            if seed in self.always_hang_on or (seed in self.hang_on and self._first_time(seed)):
                time.sleep(600)
            if seed in self.fail_on:
                raise self.raises
        pictures = [np.random.default_rng(seed).integers(0, 256, INFO.image_shape, dtype=np.uint8) for seed in seeds]
        with (self.notes / str(os.getpid())).open("a") as stream:
            stream.write("".join(f"{seed}\n" for seed in seeds))
        return np.stack(pictures)

    def _first_time(self, seed):
        try:
            (self.notes / f"first-{seed}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def write(folder, notes, **sampler):
    return ShardWriter(SeededSampler(notes, **sampler), PLAN, INFO, Folder(str(folder)))


def run(folder, notes, num_actors=2, *, patience=Patience(), size=None, **sampler):  # noqa: B008 - frozen
    """Do what the stage does, on this sampler."""
    pool = Pool(
        DRAWING,
        partial(write, folder, notes, **sampler),
        size or PoolSize(num_actors, threads_per_actor=1, gpus_per_actor=0),
        patience,
        adopt=partial(adopt_shard, PLAN, INFO, Folder(str(folder)), False),
    )
    found = survey(Folder(str(folder)), PLAN)
    pool.run(found.missing, found.unnoted)
    return pool


def seeds_of(shard_id, *rows):
    places = PLAN.places(shard_id)
    return tuple(PLAN.seed(int(places[row])) for row in (rows or range(len(places))))


def digests(folder):
    """Of whole shards; one that dies may leave the beginning of a file, under another name, which the stage sweeps."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("part-*.parquet"))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    pool = run(folder, tmp_path_factory.mktemp("notes"), num_actors=1)
    assert sorted(pool.done) == list(range(PLAN.num_shards))
    assert {shard.entry.name: shard.entry.sha256 for shard in pool.done.values()} == digests(folder)
    return digests(folder)


def test_actors_that_die_cost_nothing(tmp_path, notes, undisturbed):
    pool = run(tmp_path / "set", notes, die_on=seeds_of(0, 3) + seeds_of(2, 3) + seeds_of(6, 3))
    assert pool.set_aside == {}
    assert len(list(notes.glob("first-*"))) == 3
    assert digests(tmp_path / "set") == undisturbed
    assert not list((tmp_path / "set").glob("*.partial"))


def test_actors_that_rays_guard_of_memory_ends_cost_nothing(tmp_path, notes, undisturbed, monkeypatch):
    # It ends them in the same way; only the error is another.
    get = pool_module.ray.get

    def guarded(ref):
        try:
            return get(ref)
        except pool_module.ray.exceptions.RayActorError:
            raise pool_module.ray.exceptions.OutOfMemoryError("1 worker(s) were killed") from None

    monkeypatch.setattr(pool_module.ray, "get", guarded)
    pool = run(tmp_path / "set", notes, die_on=seeds_of(0, 3) + seeds_of(4, 1))
    assert pool.set_aside == {}
    assert len(list(notes.glob("first-*"))) == 2
    assert digests(tmp_path / "set") == undisturbed


def test_a_shard_that_keeps_failing_is_set_aside_and_retried_alone(tmp_path, notes, undisturbed):
    pool = run(tmp_path / "set", notes, fail_on=seeds_of(4, 0))
    assert pool.set_aside == {4: "this seed gives no picture"}
    assert len(digests(tmp_path / "set")) == 6
    again = tmp_path / "again"
    again.mkdir()
    run(tmp_path / "set", again)
    assert digests(tmp_path / "set") == undisturbed
    drawn = {int(seed) for path in again.iterdir() for seed in path.read_text().split()}
    assert drawn == set(seeds_of(4))


def test_a_shard_whose_actors_keep_dying_is_set_aside_too(tmp_path, notes):
    pool = run(tmp_path / "set", notes, num_actors=1, always_die_on=seeds_of(6, 0))
    assert list(pool.set_aside) == [6]
    assert pool.set_aside[6].startswith("its actor died (The actor died unexpectedly")
    assert len(digests(tmp_path / "set")) == 6


def test_the_shard_of_a_straggler_goes_to_a_second_actor_and_the_first_whole_one_wins(tmp_path, notes, undisturbed):
    start_s = time.monotonic()
    pool = run(tmp_path / "set", notes, hang_on=seeds_of(1, 0))
    assert time.monotonic() - start_s < 60, "it waited for the one that hangs"
    assert digests(tmp_path / "set") == undisturbed
    assert {shard.entry.name: shard.entry.sha256 for shard in pool.done.values()} == undisturbed


def test_an_actor_that_hangs_is_replaced_and_its_shard_set_aside_in_the_end(tmp_path, notes):
    patience = Patience(max_failures_per_unit=2, unit_timeout_s=3)
    pool = run(tmp_path / "set", notes, num_actors=1, patience=patience, always_hang_on=seeds_of(6, 0))
    assert pool.set_aside == {6: "took longer than generate.shard_timeout_s=3"}
    assert len(digests(tmp_path / "set")) == 6


def test_an_actor_that_hangs_while_it_opens_is_replaced(tmp_path, notes, undisturbed, monkeypatch):
    monkeypatch.setattr(schedule_module, "_MIN_OPEN_TIMEOUT_S", 10)
    pool = run(tmp_path / "set", notes, num_actors=1, patience=Patience(unit_timeout_s=10), hangs_at_first=True)
    assert pool.set_aside == {}
    assert digests(tmp_path / "set") == undisturbed


def test_actors_that_leak_are_recycled_and_that_is_no_trouble(tmp_path, notes, undisturbed):
    patience = Patience(max_trouble_in_a_row=1, max_failures_per_unit=1, memory_limit_bytes=350_000_000)
    pool = run(tmp_path / "set", notes, num_actors=1, patience=patience, leak_bytes=50_000_000)
    assert pool.set_aside == {}
    drawn_by = [len(path.read_text().split()) for path in notes.iterdir()]
    assert 2 <= len(drawn_by) <= 4, "an actor holds two or three shards' leaks, four batches each"
    assert sum(drawn_by) == 6 * 20 + 5, "a shard was drawn twice, or not at all"
    assert digests(tmp_path / "set") == undisturbed


def test_what_the_setting_makes_impossible_ends_the_run_at_once(tmp_path, notes):
    error = ConfigError("generate.sampler_batch_size", "small enough for a GPU", 64, "32 fits")
    with pytest.raises(ConfigError) as raised:
        run(tmp_path / "set", notes, fail_on=seeds_of(3, 0), raises=error)
    assert str(raised.value) == str(error)


def test_shards_without_a_note_are_read_and_drawn_again_if_they_are_not_what_the_plan_says(
    tmp_path, notes, undisturbed
):
    run(tmp_path / "set", notes)
    for note in (tmp_path / "set" / NOTES_FOLDER).iterdir():
        note.unlink()
    first, second, third = (tmp_path / "set" / PLAN.shard_name(k) for k in range(3))
    third.write_bytes(third.read_bytes()[:-100])
    first.write_bytes(second.read_bytes())
    second.unlink()
    pool = run(tmp_path / "set", notes)
    assert digests(tmp_path / "set") == undisturbed
    assert sorted(pool.done) == list(range(PLAN.num_shards))


def test_four_actors_that_share_gpus_write_the_bytes_of_one(tmp_path, notes, undisturbed):
    size = PoolSize(4, threads_per_actor=1, gpus_per_actor=0.5)
    run(tmp_path / "set", notes, size=size)
    assert digests(tmp_path / "set") == undisturbed


class PickledWriter:
    """Makes a writer, and counts how often it is pickled."""

    times = 0

    def __init__(self, make):
        self._make = make

    def __getstate__(self):
        PickledWriter.times += 1
        return self.__dict__

    def __call__(self):
        return self._make()


def test_what_actors_are_made_of_is_pickled_once(tmp_path, notes, undisturbed):
    make = PickledWriter(partial(write, tmp_path / "set", notes))
    pool = Pool(DRAWING, make, PoolSize(3, threads_per_actor=1, gpus_per_actor=0), Patience())
    pool.run(range(PLAN.num_shards))
    assert digests(tmp_path / "set") == undisturbed
    assert PickledWriter.times == 1


def test_nothing_can_be_written_ends_the_run_after_a_while(tmp_path, notes):
    (tmp_path / "set").write_text("a file, where a folder should be")
    pool = Pool(
        DRAWING,
        partial(write, tmp_path / "set", notes),
        PoolSize(2, threads_per_actor=1, gpus_per_actor=0),
        Patience(max_trouble_in_a_row=4),
    )
    with pytest.raises(GenerationError, match=r"^4 times in a row an actor died, or nothing could be .*cannot write"):
        pool.run(range(PLAN.num_shards))


def test_a_cluster_too_small_for_one_actor_is_an_error_after_the_wait(tmp_path, notes):
    size = PoolSize(0, threads_per_actor=64, gpus_per_actor=0)
    with pytest.raises(ResourceError, match=r"^generate needs 64 CPUs for one actor, no node of this Ray cluster has"):
        run(tmp_path / "set", notes, size=size, patience=Patience(max_wait_s=0))


@pytest.mark.parametrize(
    ("size", "resources", "places"),
    [
        (PoolSize(0, 2, 0), {"CPU": 7}, 3),
        (PoolSize(0, 1, 1), {"CPU": 16, "GPU": 4}, 4),
        (PoolSize(0, 1, 0.5), {"CPU": 16, "GPU": 4}, 8),
        (PoolSize(0, 1, 0.4), {"CPU": 16, "GPU": 4}, 8),  # two on each, a fifth of each is left over
        (PoolSize(0, 4, 0.5), {"CPU": 16, "GPU": 4}, 4),
        (PoolSize(0, 1, 1), {"CPU": 16}, 0),
        (PoolSize(0, 1, 1, "H100"), {"CPU": 16, "GPU": 2, "accelerator_type:H100": 1}, 2),
        (PoolSize(0, 1, 1, "H100"), {"CPU": 16, "GPU": 2, "accelerator_type:A100": 1}, 0),
    ],
)
def test_places_of_a_node(size, resources, places):
    assert size.places_on(resources) == places
