"""Laws of the schedule: whatever fails or dies in any order, each unit ends once, and no order breaks a rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_world import Drawn, World

from sio_ray.errors import ConfigError, GenerationError, ResourceError
from sio_ray.pool.messages import ActorEnded, UnitDone, UnitFailed
from sio_ray.pool.resources import Patience

ENDLESS = 10**6


def happen(world, kind, pick):
    """Let one thing happen; `pick` says to whom."""
    match kind:
        case "tick":
            world.tick(0.5 * (1 + pick))
        case "hang":
            world.tick(100.0)
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


def come_to_an_end(world):
    """From now on all goes well."""
    for _ in range(20 * world.num_units + 100):
        if world.schedule.is_over:
            return
        world.tick()
        for actor_id in world.opening():
            world.open(actor_id)
        while world.untold():
            world.tell_death(world.untold()[0])
        for actor_id, unit_id in world.working():
            world.finish(actor_id, unit_id)
    raise AssertionError("it does not end")


KINDS = ["tick", "hang", "grow", "open", "fail to open", "finish", "fail", "fail late", "no disk", "die", "lose node"]
#: What goes well comes more often, so that something is at work when something happens.
EVENTS = st.tuples(st.sampled_from([*KINDS, "open", "finish", "finish", "tell", "tell", "tick"]), st.integers(0, 5))


@settings(max_examples=300, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=120),
    num_units=st.integers(1, 12),
    adopt=st.integers(0, 3),
    max_failures=st.integers(1, 3),
)
def test_whatever_happens_each_unit_ends_once(events, num_units, adopt, max_failures):
    patience = Patience(max_failures_per_unit=max_failures, unit_timeout_s=60, max_trouble_in_a_row=ENDLESS)
    world = World(num_units, adopt=min(adopt, num_units), patience=patience)
    for kind, pick in events:
        happen(world, kind, pick)
    come_to_an_end(world)
    units = world.schedule.units
    assert units.done.keys() | units.set_aside.keys() == set(range(num_units))
    for unit_id in units.done.keys() - units.doubtful:
        if not world.calls_of[unit_id]:
            assert units.done[unit_id].digest == world.disk[unit_id], "another one wrote last, and nobody looks"
