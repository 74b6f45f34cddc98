"""An actor has so long to make its worker: one that hangs is replaced, and pools that always hang come to an end."""

import pytest
from pool_world import UNTROUBLED, World, come_to_an_end, told

from sio_ray.errors import GenerationError
from sio_ray.pool.messages import ActorEnded
from sio_ray.pool.resources import Patience


def test_an_actor_that_hangs_while_it_opens_is_replaced_and_one_that_waits_for_a_place_is_not():
    world = World(3, wanted=2, patience=Patience(unit_timeout_s=3600, max_trouble_in_a_row=3))
    assert not world.schedule.is_opening
    world.tick(1000)
    world.place(0)
    assert world.schedule.is_opening
    world.tick(3600)
    assert world.living() == [0, 1]
    world.tick(1)
    assert world.living() == [1, 2]
    assert told(world, ActorEnded) == [ActorEnded(0, "it did not open within 3600 s")]
    assert not world.schedule.is_opening
    world.open_late(0)
    world.place(1)
    world.open(1)
    assert world.schedule.num_open == 1, "the late one is being killed"
    come_to_an_end(world)


def test_a_short_time_for_a_unit_is_none_to_open():
    world = World(3, wanted=1, patience=Patience(unit_timeout_s=60, **UNTROUBLED))
    world.place(0)
    world.tick(1800)
    assert world.opening() == [0]
    world.tick(1)
    assert world.opening() == [1]
    assert world.untold() == [0]
    come_to_an_end(world)


def test_actors_none_of_which_opens_end_the_work():
    world = World(3, wanted=1, patience=Patience(max_trouble_in_a_row=2))
    world.place(0)
    world.tick(3601)
    world.place(1)
    with pytest.raises(GenerationError, match=r"^2 times in a row .*, the last time: it did not open within 3600 s\. "):
        world.tick(3601)


@pytest.mark.parametrize(("wanted", "rounds"), [(1, 3), (2, 3), (4, 3), (6, 2)])
def test_half_an_hour_of_each_actor_is_lost_three_times_at_most(wanted, rounds):
    world = World(30, wanted=wanted, patience=Patience(max_hung_openings=3, max_trouble_in_a_row=10))
    for lost in range(1, rounds + 1):
        for actor_id in world.opening():
            world.place(actor_id)
        if lost == rounds:
            with pytest.raises(GenerationError, match="the last time: it did not open within 3600 s"):
                world.tick(3601)
        else:
            world.tick(3601)
