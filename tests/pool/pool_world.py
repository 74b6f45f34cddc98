"""A world without Ray for the schedule: actors that open, work, fail and die as told; it checks every order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sio_ray.errors import ConfigError, GenerationError
from sio_ray.pool.messages import ActorEnded, Call, Kill, Start, UnitDone, UnitFailed, UnitSetAside
from sio_ray.pool.resources import Patience, Work
from sio_ray.pool.schedule import Schedule

#: Of `Patience`: no trouble ends the work.
UNTROUBLED = {"max_trouble_in_a_row": 10**6, "max_hung_openings": 10**6}
WORK = Work("draw", "drawing", "cpus", "gpus", "timeout_s", GenerationError, (ConfigError,))


@dataclass(frozen=True)
class Drawn:
    digest: str


@dataclass
class Actor:
    """As it is in truth; the schedule learns of its death by its calls alone, of which the first is to open."""

    is_open: bool = False
    is_dead: bool = False
    with_node: bool = False
    is_told: bool = False
    has_answered: bool = False
    calls: list = field(default_factory=list)


class World:
    """Carries orders out at once and checks each; `pick` numbers choose among what may happen."""

    def __init__(self, num_units, *, adopt=0, wanted=3, patience=Patience(**UNTROUBLED)):  # noqa: B008
        self.now_s, self.wanted, self.patience = 0.0, wanted, patience
        self.news = []
        self.schedule = Schedule(WORK, patience, self.news.append)
        self.schedule.add(range(adopt, num_units), range(adopt))
        self.num_units, self.actors = num_units, {}
        self.suspects, self.calls_of, self.disk = set(), Counter(), {}
        self.tick()

    # What may happen.

    def tick(self, seconds=0.5):
        self.now_s += seconds
        self.schedule.tick(self.now_s, self.wanted)
        self.obey()

    def place(self, actor_id):
        self.schedule.placed(actor_id, self.now_s)
        self.obey()

    def open(self, actor_id):
        self.actors[actor_id].is_open = self.actors[actor_id].has_answered = True
        self.schedule.opened(actor_id, self.now_s)
        self.obey()

    def open_late(self, actor_id, *, well=True):
        """It answers although it has been killed, as that was on its way already."""
        self.actors[actor_id].has_answered = True
        if well:
            self.schedule.opened(actor_id, self.now_s)
        else:
            self.schedule.failed_to_open(actor_id, ValueError("no model"))
        self.obey()

    def fail_to_open(self, actor_id):
        actor = self.actors[actor_id]
        actor.is_dead = actor.is_told = actor.has_answered = True
        self.schedule.failed_to_open(actor_id, ValueError("no model"))
        self.obey()

    def finish(self, actor_id, unit_id):
        self._end(actor_id, unit_id)
        self.disk[unit_id] = f"kind {actor_id % 2}"
        self.schedule.finished(actor_id, unit_id, Drawn(self.disk[unit_id]), self.now_s)
        self.obey()

    def fail(self, actor_id, unit_id, error=None, *, wrote=False):
        self._end(actor_id, unit_id)
        if wrote:
            self.disk[unit_id] = f"kind {actor_id % 2}"
        self.schedule.raised(actor_id, unit_id, error or GenerationError("no picture"), self.now_s)
        self.obey()

    def die(self, actor_id, *, with_node=False):
        """It is dead from now on; that is told later, for each of its calls."""
        self.actors[actor_id].is_dead, self.actors[actor_id].with_node = True, with_node

    def tell_death(self, actor_id):
        """Of one of its calls, or that it never opened."""
        actor = self.actors[actor_id]
        unit_id = actor.calls[0] if actor.is_open else None
        if unit_id is not None:
            self._end(actor_id, unit_id)
        else:
            actor.has_answered = True
        is_news = not actor.is_told
        actor.is_told = True
        before = self.num_timed_out()
        if actor.is_open and not actor.with_node and actor_id not in before:
            self.suspects.add(unit_id)
        self.schedule.died(actor_id, unit_id, "a bolt", self.now_s, with_node=actor.with_node)
        assert is_news or not actor.is_open or actor_id in {n.actor_id for n in self.news if isinstance(n, ActorEnded)}
        self.obey()

    def num_timed_out(self):
        return {n.actor_id for n in self.news if isinstance(n, ActorEnded) and n.reason.startswith("took longer")}

    def _end(self, actor_id, unit_id):
        self.actors[actor_id].calls.remove(unit_id)
        self.calls_of[unit_id] -= 1

    # What there is to happen.

    def opening(self):
        return [k for k, actor in self.actors.items() if not actor.is_open and not actor.is_dead]

    def killed_while_opening(self):
        return [k for k, actor in self.actors.items() if actor.is_told and not actor.has_answered]

    def working(self):
        return [(k, unit) for k, actor in self.actors.items() if not actor.is_dead for unit in actor.calls]

    def living(self):
        return [k for k, actor in self.actors.items() if not actor.is_dead]

    def untold(self):
        return [k for k, a in self.actors.items() if a.is_dead and (a.calls or not a.has_answered)]

    # What is ordered.

    def obey(self):
        orders = self.schedule.orders
        while orders:
            match orders.popleft():
                case Start(actor_id):
                    assert actor_id not in self.actors, "a number was used twice"
                    self.actors[actor_id] = Actor()
                    assert sum(not actor.is_told for actor in self.actors.values()) <= self.wanted
                case Kill(actor_id):
                    self.actors[actor_id].is_dead = self.actors[actor_id].is_told = True
                case Call(actor_id, method, unit_id):
                    self._check_call(self.actors[actor_id], method, unit_id)
                    self.actors[actor_id].calls.append(unit_id)
                    self.calls_of[unit_id] += 1
        self._check()

    def _check_call(self, actor, method, unit_id):
        assert actor.is_open, "it has no worker yet"
        assert not actor.is_told, "it is known to be dead"
        assert unit_id not in actor.calls, "it is at that already"
        assert len(actor.calls) < 2, "more than one ahead"
        assert not actor.calls or self.suspects.isdisjoint({*actor.calls, unit_id}), "a suspect is not alone"
        assert unit_id not in self.schedule.units.done.keys() | self.schedule.units.set_aside.keys(), "that is settled"
        assert self.calls_of[unit_id] < (2 if method == "do" else 1), "too many are at that"

    def _check(self):
        schedule, units = self.schedule, self.schedule.units
        assert not units.done.keys() & units.set_aside.keys()
        assert schedule.num_open == sum(actor.is_open and not actor.is_told for actor in self.actors.values())
        told = [news.unit_id for news in self.news if isinstance(news, UnitDone | UnitSetAside)]
        assert sorted(told) == sorted([*units.done, *units.set_aside]), "told other than once"
        failures = Counter(n.unit_id for n in self.news if isinstance(n, UnitFailed))
        assert all(failures[unit] >= self.patience.max_failures_per_unit for unit in units.set_aside)
        assert schedule.is_over == (len(told) == self.num_units)
        # A pool of one actor and all its places is at work whenever there is work for it.
        idle = [k for k, a in self.actors.items() if a.is_open and not a.is_told and not a.calls]
        at_work = sum(self.calls_of[unit] > 0 for unit in range(self.num_units) if unit not in told)
        assert not idle or at_work + len(told) == self.num_units, "an actor is idle while a unit waits"


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


def told(world, kind):
    return [news for news in world.news if isinstance(news, kind)]
