"""Laws of the schedule: whatever fails or dies in any order, each unit ends once, and no order breaks a rule."""

import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pool_world import UNTROUBLED, World, come_to_an_end, told

from sio_ray.errors import ConfigError, GenerationError, ResourceError
from sio_ray.pool.messages import ActorEnded, ActorOpened, UnitDone, UnitFailed, UnitSetAside, UnitUnusable
from sio_ray.pool.resources import Patience

PATIENT = Patience(unit_timeout_s=60, **UNTROUBLED)


def happen(world, kind, pick):
    """Let one thing happen; `pick` says to whom."""
    match kind:
        case "tick":
            world.tick(0.5 * (1 + pick))
        case "hang":
            world.tick(100.0)
        case "hang long":
            world.tick(2000.0)
        case "place" if opening := world.opening():
            world.place(opening[pick % len(opening)])
        case "open late" if killed := world.killed_while_opening():
            world.open_late(killed[pick % len(killed)], well=pick % 2 == 0)
        case "grow":
            world.wanted = 1 + pick
            world.tick()
        case "open" | "fail to open" if opening := world.opening():
            actor_id = opening[pick % len(opening)]
            (world.open if kind == "open" else world.fail_to_open)(actor_id)
        case "finish" if working := world.working():
            world.finish(*working[pick % len(working)])
        case "fail" | "fail late" | "no disk" if working := world.working():
            error = ResourceError("disk full") if kind == "no disk" else None
            world.fail(*working[pick % len(working)], error, wrote=kind == "fail late")
        case "die" | "lose node" if living := world.living():
            world.die(living[pick % len(living)], with_node=kind == "lose node")
        case "tell" if untold := world.untold():
            world.tell_death(untold[pick % len(untold)])


KINDS = [
    "tick",
    "hang",
    "hang long",
    "grow",
    "place",
    "open",
    "open late",
    "fail to open",
    "finish",
    "fail",
    "fail late",
]
KINDS += ["no disk", "die", "lose node"]
#: What goes well comes more often, so that something is at work when something happens.
EVENTS = st.tuples(st.sampled_from([*KINDS, "open", "finish", "finish", "tell", "tell", "tick"]), st.integers(0, 5))


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=120),
    num_units=st.integers(1, 12),
    adopt=st.integers(0, 3),
    max_failures=st.integers(1, 3),
)
@example(events=[("grow", 0), ("place", 0), ("hang long", 0)], num_units=1, adopt=0, max_failures=1)
def test_whatever_happens_each_unit_ends_once(events, num_units, adopt, max_failures):
    # The world checks every order as it comes: two at the most, suspects alone, nothing that is settled, and so on.
    patience = Patience(max_failures_per_unit=max_failures, unit_timeout_s=60, **UNTROUBLED)
    world = World(num_units, adopt=min(adopt, num_units), patience=patience)
    for kind, pick in events:
        happen(world, kind, pick)
    come_to_an_end(world)
    units = world.schedule.units
    assert units.done.keys() | units.set_aside.keys() == set(range(num_units))
    for unit_id in units.done.keys() - units.doubtful:
        if not world.calls_of[unit_id]:
            assert units.done[unit_id].digest == world.disk[unit_id], "another one wrote last, and nobody looks"


def opened(num_units, wanted, **options):
    """A world whose actors are open."""
    world = World(num_units, wanted=wanted, **{"patience": PATIENT, **options})
    for actor_id in world.opening():
        world.open(actor_id)
    return world


def kill(world, actor_id, *, with_node=False):
    """It dies, and that is told of all its calls."""
    world.die(actor_id, with_node=with_node)
    while actor_id in world.untold():
        world.tell_death(actor_id)


def test_units_are_given_in_order_and_one_ahead_while_there_are_enough_for_all():
    world = opened(8, wanted=3)
    assert [actor.calls for actor in world.actors.values()] == [[0, 1], [2, 3], [4, 5]]
    world = opened(3, wanted=3)
    assert [actor.calls for actor in world.actors.values()] == [[0], [1], [2]], "the first took what others could do"


def test_a_unit_that_kills_its_actors_is_told_from_one_that_was_there_by_chance():
    world = opened(9, wanted=1)
    killer = 2
    for _ in range(100):
        if world.schedule.is_over:
            break
        for actor_id, calls in [(k, actor.calls) for k, actor in world.actors.items() if actor.calls]:
            if killer in calls:
                kill(world, actor_id)
            else:
                world.finish(actor_id, calls[0])
        world.tick()
        for actor_id in world.opening():
            world.open(actor_id)
    units = world.schedule.units
    assert units.set_aside == {killer: "its actor died (a bolt)"}
    assert len(units.done) == 8
    assert max(sum(news.unit_id == unit for news in told(world, UnitFailed)) for unit in units.done) == 1


def test_near_the_end_what_is_late_goes_to_a_second_actor_and_the_first_one_counts():
    world = opened(4, wanted=2)  # 0 and 1 are with the first; 2 with the second, 3 with it once it has done that
    world.tick(10)
    world.finish(1, 2)
    world.finish(0, 0)
    world.tick(10)
    world.finish(1, 3)
    world.tick(5)
    assert world.working() == [(0, 1)], "not late yet: twice as long as most"
    world.tick(6)
    assert world.working() == [(0, 1), (1, 1)]
    assert not told(world, ActorEnded)
    world.finish(1, 1)
    assert world.schedule.is_over
    assert world.schedule.units.doubtful == {1}, "the first one is still at it, and may write last"
    world.finish(0, 1)
    assert world.schedule.units.done[1].digest == "kind 1"
    assert world.schedule.units.doubtful == {1}, "it was of another kind"


def test_suspects_come_last_and_nothing_is_given_beside_them():
    world = opened(7, wanted=3)  # 0 1 to the first, 2 3 to the second, 4 to the third; 5 and 6 wait
    kill(world, 0)
    for actor_id, unit_id in [(2, 4), (1, 2), (1, 3)]:
        world.finish(actor_id, unit_id)
    assert world.working() == [(1, 6), (2, 5)], "no suspect before the others"
    world.finish(1, 6)
    assert world.working() == [(1, 0), (2, 5)]
    kill(world, 2, with_node=True)
    assert world.working() == [(1, 0)], "what comes back waits too"
    come_to_an_end(world)


def test_an_actor_at_the_copy_of_a_suspect_is_given_nothing_beside_it():
    world = opened(7, wanted=3)
    for actor_id, unit_id in [(0, 0), (2, 4), (2, 5), (2, 6)]:
        world.finish(actor_id, unit_id)
    world.tick(10)
    assert world.working() == [(0, 1), (1, 2), (1, 3), (2, 1)]
    world.wanted = 1
    kill(world, 0)
    kill(world, 1, with_node=True)
    assert world.working() == [(2, 1)]
    come_to_an_end(world)


def test_a_unit_that_hangs_is_timed_out_though_its_actors_other_thread_ends_one_after_the_other():
    world = opened(100, wanted=1)  # at 0 and 1
    world.finish(0, 0)
    for unit_id in range(2, 12):  # 1 hangs
        world.tick(5.5)
        world.finish(0, unit_id)
    assert not told(world, ActorEnded), "it has 60 s"
    world.tick(5.5)
    assert world.num_timed_out() == {0}
    world.tell_death(0)
    assert [news.unit_id for news in told(world, UnitFailed)] == [1]


def test_a_straggler_has_one_copy_and_none_once_it_is_done_or_has_failed_too_often():
    world = opened(4, wanted=4, patience=Patience(max_failures_per_unit=1))
    for actor_id in (1, 2, 3):
        world.finish(actor_id, actor_id)
    world.tick(5)
    world.tick(5)
    assert world.working() == [(0, 0), (1, 0)]
    world.fail(1, 0)
    world.tick(5)
    assert world.working() == [(0, 0)]
    world.fail(0, 0)
    assert world.schedule.units.set_aside == {0: "no picture"}


def test_only_what_is_done_says_how_long_a_unit_takes_and_only_that_is_copied():
    world = opened(3, wanted=3, adopt=2)
    for unit_id in (0, 1):
        world.finish(unit_id, unit_id)
    world.tick(30)
    assert world.working() == [(2, 2)], "nobody knows how long a unit takes"
    world = opened(2, wanted=2, adopt=1)
    world.finish(1, 1)
    world.tick(30)
    assert world.working() == [(0, 0)], "reading what is there is not copied"


def test_a_unit_that_its_copy_has_done_does_not_come_back():
    world = opened(3, wanted=3, patience=Patience(max_trouble_in_a_row=1))
    world.finish(1, 1)
    world.tick(5)
    assert world.working() == [(0, 0), (1, 0), (2, 2)]
    world.finish(1, 0)
    kill(world, 0, with_node=True)
    assert world.working() == [(2, 2)]


def test_a_disk_that_fails_the_copy_of_what_is_done_is_no_trouble():
    world = opened(3, wanted=3, patience=Patience(max_trouble_in_a_row=1))
    world.finish(1, 1)
    world.tick(5)
    world.finish(1, 0)
    world.fail(0, 0, ResourceError("disk full"))
    assert world.working() == [(2, 2)]
    assert not told(world, UnitFailed)


def test_there_are_no_more_actors_than_units():
    assert len(World(2, wanted=5).actors) == 2


def test_an_actor_that_hangs_is_replaced_and_what_waited_behind_is_not_blamed():
    world = opened(3, wanted=1)
    assert world.working() == [(0, 0), (0, 1)]
    world.tick(61)
    assert world.living() == world.opening() == [1], "its place is free at once"
    world.open(1)
    while world.untold():
        world.tell_death(0)
    assert [(news.unit_id, news.reason) for news in told(world, UnitFailed)] == [(0, "took longer than timeout_s=60")]


def test_a_node_that_goes_away_is_no_failure():
    world = opened(4, wanted=2, patience=Patience(max_trouble_in_a_row=1))
    for actor_id in (0, 1):
        kill(world, actor_id, with_node=True)
    assert len(told(world, ActorEnded)) == 2
    assert not told(world, UnitFailed)
    come_to_an_end(world)
    assert len(world.schedule.units.done) == 4


def test_a_failed_copy_waits_for_the_other_actor_before_its_unit_is_set_aside():
    world = opened(2, wanted=2, patience=Patience(max_failures_per_unit=1))
    world.tick(10)
    world.finish(0, 0)
    world.tick(11)
    assert world.working() == [(0, 1), (1, 1)]
    world.fail(0, 1)
    assert not world.schedule.is_over
    assert not world.schedule.units.set_aside
    world.finish(1, 1)
    assert world.schedule.units.done.keys() == {0, 1}
    assert not told(world, UnitSetAside)


def test_what_cannot_be_adopted_is_done_and_that_is_no_failure():
    world = opened(1, wanted=1, adopt=1, patience=Patience(max_failures_per_unit=1))
    world.fail(0, 0)
    assert [news.reason for news in told(world, UnitUnusable)] == ["no picture"]
    world.finish(0, 0)
    assert world.schedule.units.done.keys() == {0}


def test_an_error_of_the_setting_ends_the_work():
    world = opened(2, wanted=1)
    with pytest.raises(ConfigError, match=r"^x must be small, got 9; halve it\.$"):
        world.fail(0, 0, ConfigError("x", "small", 9, "halve it"))


@pytest.mark.parametrize("kind", ["die", "fail to open", "no disk"])
def test_trouble_in_a_row_ends_the_work_and_anything_done_in_between_begins_anew(kind):
    def trouble(world):
        if kind == "fail to open":
            world.fail_to_open(world.opening()[0])
        elif kind == "no disk":
            world.fail(*world.working()[0], ResourceError("disk full."))
        else:
            world.die(world.living()[-1])
            world.tell_death(world.untold()[0])
        world.tick()

    patience = Patience(max_trouble_in_a_row=3, max_failures_per_unit=9)
    world = opened(20, wanted=1, patience=patience) if kind == "no disk" else World(20, patience=patience)
    trouble(world)
    trouble(world)
    if not world.working():
        world.open(world.opening()[0])
    world.finish(*world.working()[0])
    if kind != "no disk":
        world.tick()
    trouble(world)
    trouble(world)
    with pytest.raises(GenerationError, match=r"^3 times in a row an actor died, or .*, the last time: .*[a-z]\. Look"):
        trouble(world)


def test_a_store_that_all_actors_miss_once_does_not_end_the_work():
    world = opened(20, wanted=5, patience=Patience(max_trouble_in_a_row=2))
    at_work = [(actor_id, actor.calls[0]) for actor_id, actor in world.actors.items()]
    for actor_id, unit_id in at_work[:4]:
        world.fail(actor_id, unit_id, ResourceError("no bucket"))
    with pytest.raises(GenerationError, match=r"^5 times in a row"):
        world.fail(*at_work[4], ResourceError("no bucket"))


def test_news_tell_all_that_happened_to_actors():
    world = opened(5, wanted=2)
    world.die(1)
    world.tell_death(1)
    come_to_an_end(world)
    assert [news.actor_id for news in told(world, ActorOpened)] == [0, 1, 2]
    assert told(world, ActorEnded) == [ActorEnded(1, "a bolt")]
    assert sorted(news.unit_id for news in told(world, UnitDone)) == list(range(5))


def test_the_schedule_and_the_simulation_of_it_need_no_ray():
    code = "import sys, sio_ray.pool.schedule; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
