"""Actors are recycled after so many units or above so much memory: no unit is lost by it, and it is no trouble."""

import mmap

import pytest
from pool_world import Drawn, World

from sio_ray.pool.memory import resident_bytes
from sio_ray.pool.messages import ActorEnded, ActorOpened, UnitFailed
from sio_ray.pool.resources import Patience


def play(world, memory_bytes=lambda actor_id, num_units: 0):
    """Let every actor end its first unit, in turn, until all are done; returns actor to units that it did."""
    did = {}
    for _ in range(20 * world.num_units):
        if world.schedule.is_over:
            return did
        world.tick()
        for actor_id in world.opening():
            world.open(actor_id)
        for actor_id in [k for k, actor in world.actors.items() if actor.calls]:
            unit_id = world.actors[actor_id].calls[0]
            did.setdefault(actor_id, []).append(unit_id)
            world._end(actor_id, unit_id)
            held = memory_bytes(actor_id, len(did[actor_id]))
            world.schedule.finished(actor_id, unit_id, Drawn("same"), world.now_s, memory_bytes=held)
            world.obey()
    raise AssertionError("it does not end")


def reasons(world):
    return [news.reason for news in world.news if isinstance(news, ActorEnded) and news.is_recycled]


@pytest.mark.parametrize("most", [1, 2, 3, 7])
@pytest.mark.parametrize("wanted", [1, 3])
def test_no_actor_does_more_units_than_it_may_and_all_are_done(most, wanted):
    # With trouble twice in a row the work would end.
    world = World(20, wanted=wanted, patience=Patience(max_units_per_actor=most, max_trouble_in_a_row=2))
    did = play(world)
    assert max(map(len, did.values())) == most
    assert sorted(unit for units in did.values() for unit in units) == list(range(20)), "once each"
    assert set(reasons(world)) == {f"recycled after {most} units"}
    assert not [news for news in world.news if isinstance(news, UnitFailed)]


def test_an_actor_above_its_memory_ends_what_it_has_and_is_replaced():
    world = World(30, wanted=2, patience=Patience(memory_limit_bytes=4_000_000_000, max_trouble_in_a_row=2))
    # The first leaks 1.5 GB with each unit, the others do not.
    did = play(world, lambda actor_id, num_units: 1_500_000_000 * num_units if actor_id == 0 else 1_000_000_000)
    assert len(did[0]) == 4, "three, and the one that was given ahead"
    assert reasons(world) == ["recycled, as it held 6.00 GB"]
    assert sum(isinstance(news, ActorOpened) for news in world.news) == 3
    assert sorted(unit for units in did.values() for unit in units) == list(range(30))


def test_one_that_fails_its_last_unit_is_recycled_too():
    world = World(4, wanted=1, patience=Patience(max_units_per_actor=2))
    world.open(0)
    assert world.working() == [(0, 0), (0, 1)]
    world.fail(0, 0)
    world.fail(0, 1)
    assert reasons(world) == ["recycled after 2 units"]
    assert len(play(world)) == 2


def test_a_process_knows_how_much_memory_it_holds():
    size = 50_000_000
    before = resident_bytes()
    with mmap.mmap(-1, size) as block:  # from the system, where what was freed before could be taken again
        block.write(b"x" * size)
        grown = resident_bytes() - before
    assert size * 0.9 < grown < size * 2.2  # the bytes that were written may be held still
