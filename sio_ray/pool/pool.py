"""A pool of actors that does every unit of work exactly once; a unit is a number that the worker understands."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import ray

from sio_ray.cluster import limit_threads
from sio_ray.errors import ResourceError
from sio_ray.pool.resources import Patience, PoolSize, Work
from sio_ray.progress import console

#: So often the pool looks whether the cluster grew, a unit is late, or nobody works.
_TICK_S = 0.5

#: Actors that die, or units that cannot be written, one after the other with none done in between.
_MAX_TROUBLE_IN_A_ROW = 10

#: With nothing left to give out, a unit that takes so many times as long as most is given to a second actor too.
_STRAGGLER_FACTOR = 2.0
_STRAGGLER_MIN_S = 1.0

#: So often a pool without a place for any actor says what it waits for.
_SAY_WAITING_S = 30.0


class Result(Protocol):
    """What is told of a unit that is done."""

    @property
    def digest(self) -> str:
        """The same for the same bytes written: whether it matters which of two actors that did a unit was the last."""


R = TypeVar("R", bound=Result)
R_co = TypeVar("R_co", bound=Result, covariant=True)


class Worker(Protocol[R_co]):
    """What does units inside an actor."""

    def do(self, unit_id: int) -> R_co:
        """Do one unit and write it whole; two threads may each be in here with a unit of its own."""


class PoolActor(Generic[R]):
    """Holds one worker; called from two threads, so that one unit is written while the next is worked on."""

    def __init__(self, make_worker: Callable[[], Worker[R]], adopt: Callable[[int], R] | None, threads: int) -> None:
        self._make_worker, self._adopt, self._threads = make_worker, adopt, threads

    def open(self) -> None:
        """Make the worker; not in `__init__`, where an error would look like the death of the actor."""
        limit_threads(self._threads)
        self._worker = self._make_worker()
        limit_threads(self._threads)  # torch is loaded now

    def do(self, unit_id: int) -> R:
        """Do one unit, and describe it."""
        limit_threads(self._threads)  # OpenMP counts for each calling thread
        return self._worker.do(unit_id)

    def adopt(self, unit_id: int) -> R:
        """Describe one unit that is there already."""
        assert self._adopt is not None, "units to adopt need a function that does it"
        return self._adopt(unit_id)


@dataclass(eq=False)
class _Actor:
    """An actor as the driver sees it.

    Attributes:
        handle: of the actor.
        is_open: it has made its worker, and so has a place.
        calls: what it is at.
        timed_out: the unit for which the pool has killed it.
    """

    handle: Any
    is_open: bool = False
    calls: set[ray.ObjectRef] = field(default_factory=set)
    timed_out: int | None = None


@dataclass(eq=False)
class _Call:
    """What an actor was asked for; `start_s` is when it could begin, after what it was asked for before."""

    actor: _Actor
    method: str
    unit_id: int
    start_s: float


class Pool(Generic[R]):
    """The driver's side: which unit is with which actor, and what is left.

    What a unit writes follows from its number alone, so it does not matter by whom or how often it is done; an actor
    that dies costs no more than its units' time.

    Args:
        work: how messages call it.
        make_worker: makes what does units, inside an actor; picklable.
        size: what to ask Ray for.
        patience: how much trouble to bear.
        adopt: describes a unit that is there already, or raises; picklable. None where nothing records what was
            written, so that of two that did a unit it does not matter who was last.
        on_done: called in the driver with each unit that is done.
    """

    def __init__(
        self,
        work: Work,
        make_worker: Callable[[], Worker[R]],
        size: PoolSize,
        patience: Patience,
        *,
        adopt: Callable[[int], R] | None = None,
        on_done: Callable[[R], None] = lambda result: None,
    ) -> None:
        self._work, self._make_worker, self._adopt = work, make_worker, adopt
        self._size, self._patience, self._on_done = size, patience, on_done
        self._actors: list[_Actor] = []
        self._calls: dict[ray.ObjectRef, _Call] = {}
        self._queue: collections.deque[tuple[str, int]] = collections.deque()
        self._failures: collections.Counter[int] = collections.Counter()
        self._durations_s: collections.deque[float] = collections.deque(maxlen=256)
        self._twice: set[int] = set()
        self._suspects: set[int] = set()
        self._trouble_in_a_row = 0
        self._next_look_s = 0.0
        self._alone_since_s: float | None = None
        self._said_waiting_s = 0.0
        self.done: dict[int, R] = {}
        self.set_aside: dict[int, str] = {}

    @property
    def num_open(self) -> int:
        """Actors at work."""
        return sum(actor.is_open for actor in self._actors)

    def run(self, do: Iterable[int], adopt: Iterable[int] = ()) -> None:
        """Do units in this order, and describe others that are there already; one that fails goes to the end.

        Raises:
            SioRayError: of the work's `error`, as actors died, or writing failed, many times in a row; or one of the
                work's `fatal` errors, as a worker raised it.
            ResourceError: no actor found a place in time.
        """
        self._queue.extend([("adopt", unit_id) for unit_id in adopt])
        self._queue.extend([("do", unit_id) for unit_id in do])
        try:
            while self._queue or self._open_units():
                self._look()
                self._give_out()
                self._take_in(timeout_s=_TICK_S)
            self._settle_doubles()
        finally:
            for actor in self._actors:
                ray.kill(actor.handle)

    # Which actors there are.

    def _look(self) -> None:
        """Now and then: start actors for which there is a place, end those that hang, copy what is late."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _TICK_S
        left = len(self._queue) + len(self._open_units())
        for _ in range(min(self._size.wanted(), left) - len(self._actors)):
            self._start_actor()
        for call in list(self._calls.values()):
            is_late = call.method == "do" and now_s - call.start_s > self._patience.unit_timeout_s
            if is_late and call.actor.timed_out is None:
                call.actor.timed_out = call.unit_id
                ray.kill(call.actor.handle)
        if not self._queue:
            self._copy_stragglers(now_s)
        self._check_somebody_works(now_s)

    def _start_actor(self) -> None:
        remote = ray.remote(max_concurrency=2, **self._size.options())(PoolActor)
        actor = _Actor(remote.remote(self._make_worker, self._adopt, self._size.threads_per_actor))
        self._actors.append(actor)
        self._call(actor, "open")

    def _check_somebody_works(self, now_s: float) -> None:
        if self.num_open:
            self._alone_since_s = None
            return
        if self._alone_since_s is None:
            self._alone_since_s = self._said_waiting_s = now_s
        waited_s = now_s - self._alone_since_s
        if self._size.capacity() == 0 and waited_s >= self._patience.max_wait_s:
            raise self._size.no_place(self._work)
        if now_s - self._said_waiting_s >= _SAY_WAITING_S:
            self._said_waiting_s = now_s
            console.print(f"  waiting for a place for an actor ({self._size.describe()}) since {waited_s:.0f} s")

    # Who does what.

    def _open_units(self) -> set[int]:
        return {call.unit_id for call in self._calls.values() if call.method != "open"} - self.done.keys()

    def _call(self, actor: _Actor, method: str, unit_id: int | None = None) -> None:
        arguments = () if unit_id is None else (unit_id,)
        ref = getattr(actor.handle, method).remote(*arguments)
        actor.calls.add(ref)
        self._calls[ref] = _Call(actor, method, -1 if unit_id is None else unit_id, time.monotonic())

    def _give_out(self) -> None:
        """One unit to each actor, and a second one ahead while there are enough for all.

        A unit whose actor has died is done with no other beside it, so that a unit that kills its actors is told
        from one that was there by chance.
        """
        while self._queue and self._queue[0][1] in self.done:  # by its other copy
            self._queue.popleft()
        for ahead in (1, 2):
            for actor in self._actors:
                if not self._queue or (ahead == 2 and len(self._queue) < self.num_open):
                    return
                at_work = {self._calls[ref].unit_id for ref in actor.calls}
                if not actor.is_open or actor.timed_out is not None or len(at_work) >= ahead:
                    continue
                if ahead == 2 and self._suspects & {*at_work, self._queue[0][1]}:
                    continue
                self._call(actor, *self._queue.popleft())

    def _copy_stragglers(self, now_s: float) -> None:
        """Near the end: give what is late to actors that have nothing to do; the first whole one wins."""
        idle = [actor for actor in self._actors if actor.is_open and not actor.calls]
        if not idle or not self._durations_s:
            return
        late_s = max(_STRAGGLER_MIN_S, _STRAGGLER_FACTOR * statistics.median(self._durations_s))
        late = sorted(
            (call.start_s, call.unit_id)
            for call in self._calls.values()
            if call.method == "do"
            and call.unit_id not in self.done.keys() | self._twice
            and now_s - call.start_s > late_s
        )
        for actor, (_, unit_id) in zip(idle, late, strict=False):
            self._twice.add(unit_id)
            self._call(actor, "do", unit_id)

    # What came back.

    def _take_in(self, timeout_s: float) -> None:
        """Handle every call that has ended; wait for the first."""
        if not self._calls:
            time.sleep(timeout_s)
            return
        refs = list(self._calls)
        ended, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ended and len(refs) > 1:
            ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ended:
            call = self._calls.pop(ref)
            call.actor.calls.discard(ref)
            for behind in call.actor.calls:
                self._calls[behind].start_s = time.monotonic()
            try:
                self._finish(call, ray.get(ref))
            except ray.exceptions.RayTaskError as error:
                self._fail(call, error)
            except ray.exceptions.RayError as error:  # Ray's guard of memory kills with an error of its own
                self._bury(call, error)

    def _finish(self, call: _Call, result: R | None) -> None:
        self._trouble_in_a_row = 0
        if result is None:
            call.actor.is_open = True
            return
        if call.method == "do":
            self._durations_s.append(time.monotonic() - call.start_s)
        first = self.done.setdefault(call.unit_id, result)
        if first is result:
            self.set_aside.pop(call.unit_id, None)  # its other copy had failed
            self._on_done(result)
        elif first.digest == result.digest:
            self._twice.discard(call.unit_id)

    def _bury(self, call: _Call, error: ray.exceptions.RayError) -> None:
        """An actor has died: its units go back, and the cluster is looked at for a place for another."""
        actor = call.actor
        if actor in self._actors:
            self._actors.remove(actor)
            self._next_look_s = 0.0
            if actor.timed_out is None and not _node_died(error):
                self._count_trouble(error)
        if call.method == "open" or call.unit_id in self.done:
            return
        if actor.timed_out == call.unit_id:
            self._count_failure(call, f"took longer than {self._work.timeout_field}={self._patience.unit_timeout_s:g}")
        elif actor.timed_out is None and not _node_died(error):
            self._suspects.add(call.unit_id)
            self._count_failure(call, f"its actor died ({_first_line(error)})")
        else:
            self._queue.append((call.method, call.unit_id))

    def _fail(self, call: _Call, error: ray.exceptions.RayTaskError) -> None:
        """A call has raised."""
        cause = error.cause or error
        if call.method == "adopt":
            console.print(f"  {self._work.doing} again what cannot be used: {_first_line(cause)}", markup=False)
            self._queue.append(("do", call.unit_id))
            return
        if isinstance(cause, self._work.fatal):
            raise cause
        if call.method == "open":
            self._actors.remove(call.actor)
            ray.kill(call.actor.handle)
            self._count_trouble(cause)
        elif call.unit_id not in self.done:
            if isinstance(cause, ResourceError):
                self._count_trouble(cause)
            self._count_failure(call, _first_line(cause))

    def _count_failure(self, call: _Call, reason: str) -> None:
        self._failures[call.unit_id] += 1
        if self._failures[call.unit_id] < self._patience.max_failures_per_unit:
            self._queue.append((call.method, call.unit_id))
        else:
            self.set_aside[call.unit_id] = reason

    def _count_trouble(self, error: BaseException) -> None:
        self._trouble_in_a_row += 1
        if self._trouble_in_a_row >= _MAX_TROUBLE_IN_A_ROW:
            reason = _first_line(error).rstrip(".")
            raise self._work.error(
                f"{_MAX_TROUBLE_IN_A_ROW} times in a row an actor died, or nothing could be written, the last time: "
                f"{reason}. Look for missing memory, a full disk or a broken driver, then run the same command again: "
                "finished shards are kept."
            ) from error

    def _settle_doubles(self) -> None:
        """Describe units once more whose second writer might have come in last.

        On one kind of device both write the same bytes; a pool of several kinds is why this is looked at.
        """
        late = [ref for ref, call in self._calls.items() if call.method == "do"]
        for ref in late:
            ray.kill(self._calls[ref].actor.handle)
        if late:
            ray.wait(late, num_returns=len(late))
        if self._adopt is None:
            return
        for unit_id in sorted(self._twice & self.done.keys()):
            there = ray.get(ray.remote(num_cpus=0)(_describe).remote(self._adopt, unit_id))
            if there.digest != self.done[unit_id].digest:
                self.done[unit_id] = there


def _describe(adopt: Callable[[int], R], unit_id: int) -> R:
    """A task, so that the unit's bytes do not pass through the driver."""
    return adopt(unit_id)


def _node_died(error: ray.exceptions.RayError) -> bool:
    """Whether the actor died of its node going away (spot, scaled down): no sign of trouble with the work."""
    return "node has died" in str(error)


def _first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    # An actor that could not even be made tells the reason last, below Ray's own words and a traceback.
    told_last = isinstance(error, ray.exceptions.RayActorError) and "creation task" in str(error)
    return lines[-1 if told_last else 0] if lines else type(error).__name__
