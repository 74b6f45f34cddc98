"""Decides which actor does which unit, and what follows when one fails or dies; knows neither Ray nor the time."""

from __future__ import annotations

import collections
import itertools
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sio_ray.errors import ResourceError
from sio_ray.pool.messages import ActorEnded, ActorOpened, Call, Kill, News, Order, Result, Start
from sio_ray.pool.resources import Patience, Work
from sio_ray.pool.units import Units

#: With nothing left to give out, a unit that takes so many times as long as most is given to a second actor too.
_STRAGGLER_FACTOR = 2.0
_STRAGGLER_MIN_S = 1.0

#: An actor may always take so long to make its worker: loading a model has little to do with the time of a unit.
_MIN_OPEN_TIMEOUT_S = 1800.0


R = TypeVar("R", bound=Result)


@dataclass(eq=False, slots=True)
class _Actor:
    """An actor as the schedule sees it.

    Attributes:
        is_open: it has made its worker, and lives.
        is_gone: it has died or is being killed; kept until the last of its calls has ended.
        opening_since_s: since when it is making its worker; None before it has a place, and afterwards.
        start_s: what it is at: unit to when that could begin, after the one that it was asked for before.
        timed_out: the unit for which it is killed.
        num_units: that it was at before, well ended or not.
        memory_bytes: that it held after the last of them.
    """

    is_open: bool = False
    is_gone: bool = False
    opening_since_s: float | None = None
    start_s: dict[int, float] = field(default_factory=dict)
    timed_out: int | None = None
    num_units: int = 0
    memory_bytes: int = 0


class Schedule(Generic[R]):
    """A state machine: events go in by its methods, with the time; orders come out.

    An actor has at most two units, and a suspect, over which an actor has died, with no other beside it, so that a unit
    that kills its actors is told from one that was there by chance. One that is to be recycled ends what it has first.
    An event costs the same with any number of units and actors; a tick looks at every actor.

    Args:
        work: how errors call it, and which of them end it.
        patience: how much trouble to bear.
        tell: called with news, as they come.

    Attributes:
        orders: to be carried out in turn, and taken out.
        units: where each of them is.
        num_open: actors at work.
    """

    def __init__(self, work: Work, patience: Patience, tell: Callable[[News[R]], None] = lambda news: None) -> None:
        self._work, self._patience, self._tell = work, patience, tell
        self.orders: collections.deque[Order] = collections.deque()
        self.units: Units[R] = Units(patience.max_failures_per_unit, tell)
        self.num_open = 0
        self._new_ids = itertools.count()
        self._actors: dict[int, _Actor] = {}
        self._num_alive = 0
        # Actors that can take a unit, having none or one; ordered sets, whose first is found at once.
        self._idle: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._one_ahead: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._durations_s: collections.deque[float] = collections.deque(maxlen=256)
        self._trouble_in_a_row = 0
        self._alone_since_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Every unit is done or set aside; second copies may still be at work."""
        return not self.units.num_left

    def waited_s(self, now_s: float) -> float:
        """How long there has been no actor at work."""
        return 0.0 if self._alone_since_s is None else now_s - self._alone_since_s

    @property
    def is_opening(self) -> bool:
        """Whether an actor has a place and is making its worker."""
        return any(actor.opening_since_s is not None for actor in self._actors.values())

    def add(self, do: Iterable[int], adopt: Iterable[int] = ()) -> None:
        """Queue units, those to adopt first; each in one of the two, once."""
        self.units.add(do, adopt)

    # Events.

    def tick(self, now_s: float, wanted: int) -> None:
        """Time has passed, or the cluster has changed: end actors that hang, start others, copy what is late.

        Args:
            now_s: on any clock that does not go back.
            wanted: how many actors there should be, those at work included.

        Raises:
            SioRayError: this ends the work.
        """
        open_timeout_s = max(self._patience.unit_timeout_s, _MIN_OPEN_TIMEOUT_S)
        for actor_id, actor in self._actors.items():
            late = [unit for unit, start_s in actor.start_s.items() if now_s - start_s > self._patience.unit_timeout_s]
            if late and not actor.is_gone:
                actor.timed_out = late[0]
                self._lose(actor_id, self._took_too_long())
                self.orders.append(Kill(actor_id))
            elif actor.opening_since_s is not None and now_s - actor.opening_since_s > open_timeout_s:
                reason = f"it did not open within {open_timeout_s:g} s"
                self._lose(actor_id, reason)
                self.orders.append(Kill(actor_id))
                self._count_trouble(reason, most=self._patience.max_hung_openings * wanted)
        for _ in range(min(wanted, self.units.num_left) - self._num_alive):
            actor_id = next(self._new_ids)
            self._actors[actor_id] = _Actor()
            self._num_alive += 1
            self.orders.append(Start(actor_id))
        if not self.units.queue and not self.units.suspects_queue:
            self._copy_stragglers(now_s)
        if self.num_open:
            self._alone_since_s = None
        elif self._alone_since_s is None:
            self._alone_since_s = now_s

    def placed(self, actor_id: int, now_s: float) -> None:
        """An actor has found a place in the cluster, and is making its worker."""
        actor = self._actors.get(actor_id)
        if actor is not None and not (actor.is_open or actor.is_gone):  # that may be told before this
            actor.opening_since_s = now_s

    def opened(self, actor_id: int, now_s: float) -> None:
        """An actor has made its worker."""
        actor = self._actors[actor_id]
        if actor.is_gone:  # it took too long, and is being killed
            del self._actors[actor_id]
            return
        self._trouble_in_a_row = 0
        actor.is_open, actor.opening_since_s = True, None
        self.num_open += 1
        self._tell(ActorOpened(actor_id))
        self._file(actor_id)
        self._give_out(now_s)

    def failed_to_open(self, actor_id: int, error: BaseException) -> None:
        """An actor's worker could not be made.

        Raises:
            SioRayError: this ends the work.
        """
        self._raise_if_fatal(error)
        if self._actors[actor_id].is_gone:  # see `opened`
            del self._actors[actor_id]
            return
        self._lose(actor_id, first_line(error))
        del self._actors[actor_id]
        self.orders.append(Kill(actor_id))
        self._count_trouble(first_line(error), error)

    def finished(self, actor_id: int, unit_id: int, result: R, now_s: float, *, memory_bytes: int = 0) -> None:
        """A unit is done, by an actor that now holds so much memory."""
        self._trouble_in_a_row = 0
        self._actors[actor_id].memory_bytes = memory_bytes
        seconds = now_s - self._end(actor_id, unit_id, now_s)
        if self.units.method(unit_id) == "do":
            self._durations_s.append(seconds)
        self.units.finish(unit_id, actor_id, result, seconds)
        self._give_out(now_s)

    def raised(self, actor_id: int, unit_id: int, error: BaseException, now_s: float) -> None:
        """A worker raised over a unit.

        Raises:
            SioRayError: this ends the work.
        """
        self._end(actor_id, unit_id, now_s)
        if self.units.method(unit_id) == "adopt":
            self.units.refuse(unit_id, first_line(error))
        else:
            self._raise_if_fatal(error)
            if isinstance(error, ResourceError) and unit_id not in self.units.done:
                self._count_trouble(first_line(error), error)
            self.units.fail(unit_id, actor_id, first_line(error))
        self._give_out(now_s)

    def died(self, actor_id: int, unit_id: int | None, reason: str, now_s: float, *, with_node: bool) -> None:
        """An actor has died over a unit, or before it opened; told once for each of its calls.

        Args:
            actor_id: who.
            unit_id: one that it was at, or that waited; None where it had not opened.
            reason: in one line.
            now_s: the time.
            with_node: its node went away (spot, scaled down), which is no sign of trouble with the work.

        Raises:
            SioRayError: this ends the work.
        """
        actor = self._actors[actor_id]
        if not actor.is_gone:
            self._lose(actor_id, reason)
            if not with_node:
                self._count_trouble(reason)
        if unit_id is None:
            del self._actors[actor_id]
            return
        self._end(actor_id, unit_id, now_s)
        if actor.timed_out == unit_id:
            self.units.fail(unit_id, actor_id, self._took_too_long())
        elif actor.timed_out is None and not with_node:
            for other in self.units.suspect(unit_id):
                self._file(other)
            self.units.fail(unit_id, actor_id, f"its actor died ({reason})")
        else:
            self.units.put_back(unit_id)
        self._give_out(now_s)

    # Who does what.

    def _give_out(self, now_s: float) -> None:
        """One unit to each actor, and a second one ahead while there are enough for all, those that start included."""
        queue, suspects_queue = self.units.queue, self.units.suspects_queue
        while self._idle and (queue or suspects_queue):
            self._give(next(iter(self._idle)), (queue or suspects_queue).popleft(), now_s)
        while self._one_ahead and queue and len(queue) >= self._num_alive:
            self._give(next(iter(self._one_ahead)), queue.popleft(), now_s)

    def _give(self, actor_id: int, unit_id: int, now_s: float) -> None:
        self._actors[actor_id].start_s[unit_id] = now_s
        self.units.hold(unit_id, actor_id)
        self._file(actor_id)
        self.orders.append(Call(actor_id, self.units.method(unit_id), unit_id))

    def _copy_stragglers(self, now_s: float) -> None:
        """Near the end: give what is late to actors that have nothing to do; the first whole one wins."""
        if not self._idle or not self._durations_s:
            return
        late_s = max(_STRAGGLER_MIN_S, _STRAGGLER_FACTOR * statistics.median(self._durations_s))
        late = sorted(
            (start_s, unit_id)
            for actor in self._actors.values()
            for unit_id, start_s in actor.start_s.items()
            if now_s - start_s > late_s and self.units.needs_copy(unit_id)
        )
        for actor_id, (_, unit_id) in zip(list(self._idle), late, strict=False):
            self._give(actor_id, unit_id, now_s)

    def _file(self, actor_id: int) -> None:
        """Put an actor where `_give_out` looks for those that can take a unit."""
        self._idle.pop(actor_id, None)
        self._one_ahead.pop(actor_id, None)
        actor = self._actors[actor_id]
        if actor.is_open and not actor.start_s:
            self._idle[actor_id] = None
        elif len(actor.start_s) == 1 and self.units.are_trusted(actor.start_s) and self._may_have_another(actor):
            self._one_ahead[actor_id] = None

    def _may_have_another(self, actor: _Actor) -> bool:
        if not actor.is_open or self._why_recycled(actor):
            return False
        most = self._patience.max_units_per_actor
        return most is None or len(actor.start_s) + actor.num_units < most

    def _end(self, actor_id: int, unit_id: int, now_s: float) -> float:
        """A call has ended; returns when it could begin.

        What was asked for after it could begin only now. What was asked for before has its time running: an actor has
        two threads, and one of them may hang while the other ends unit after unit.
        """
        actor = self._actors[actor_id]
        start_s = actor.start_s[unit_id]
        for behind in itertools.dropwhile(lambda other: other != unit_id, list(actor.start_s)):
            actor.start_s[behind] = now_s
        del actor.start_s[unit_id]
        actor.num_units += self.units.method(unit_id) == "do"
        self.units.release(unit_id, actor_id)
        if actor.is_gone and not actor.start_s:
            del self._actors[actor_id]
        elif not actor.start_s and (reason := self._why_recycled(actor)):
            self._lose(actor_id, reason, is_recycled=True)
            del self._actors[actor_id]
            self.orders.append(Kill(actor_id))
        else:
            self._file(actor_id)
        return start_s

    def _why_recycled(self, actor: _Actor) -> str:
        """Why an actor is to be replaced when it has ended what it is at; empty if it is not."""
        if actor.num_units == self._patience.max_units_per_actor:
            return f"recycled after {actor.num_units} units"
        limit = self._patience.memory_limit_bytes
        if limit is not None and actor.memory_bytes > limit:
            return f"recycled, as it held {actor.memory_bytes / 1e9:.2f} GB"
        return ""

    # Trouble.

    def _lose(self, actor_id: int, reason: str, *, is_recycled: bool = False) -> None:
        """An actor is no more, though its calls are still to end."""
        actor = self._actors[actor_id]
        self._num_alive -= 1
        self.num_open -= actor.is_open
        actor.is_open, actor.is_gone, actor.opening_since_s = False, True, None
        self._file(actor_id)
        self._tell(ActorEnded(actor_id, reason, is_recycled))

    def _took_too_long(self) -> str:
        return f"took longer than {self._work.timeout_field}={self._patience.unit_timeout_s:g}"

    def _raise_if_fatal(self, error: BaseException) -> None:
        if isinstance(error, self._work.fatal):
            raise error

    def _count_trouble(self, reason: str, error: BaseException | None = None, *, most: float = math.inf) -> None:
        self._trouble_in_a_row += 1
        # A store that is away for a minute meets many actors at once: each may see it.
        if self._trouble_in_a_row >= max(min(most, self._patience.max_trouble_in_a_row), self._num_alive):
            raise self._work.error(
                f"{self._trouble_in_a_row} times in a row an actor died, or nothing could be written, the last time: "
                f"{reason.rstrip('.')}. Look for missing memory, a full disk or a broken driver, then run the same "
                "command again: finished shards are kept."
            ) from error


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
