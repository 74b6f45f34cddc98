"""A pool of actors that does every unit of work exactly once; a unit is a number that the worker understands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import ray

from sio_ray.cluster import limit_threads
from sio_ray.pool.memory import resident_bytes
from sio_ray.pool.messages import Call, Kill, News, Order, Result, Start, UnitUnusable
from sio_ray.pool.resources import Patience, PoolSize, Work
from sio_ray.pool.schedule import Schedule, first_line
from sio_ray.progress import console

#: So often the pool looks whether the cluster grew, a unit is late, or nobody works.
_TICK_S = 0.5

#: So often a pool without a place for any actor says what it waits for.
_SAY_WAITING_S = 30.0

R = TypeVar("R", bound=Result)
R_co = TypeVar("R_co", bound=Result, covariant=True)


class Worker(Protocol[R_co]):
    """What does units inside an actor."""

    def do(self, unit_id: int) -> R_co:
        """Do one unit and write it whole; two threads may each be in here with a unit of its own."""


@dataclass(frozen=True, slots=True)
class _Answer(Generic[R]):
    """What an actor made of a unit, and the memory that it now holds."""

    result: R
    memory_bytes: int


class PoolActor(Generic[R]):
    """Holds one worker; called from two threads, so that one unit is written while the next is worked on."""

    def __init__(self, make_worker: Callable[[], Worker[R]], adopt: Callable[[int], R] | None, threads: int) -> None:
        self._make_worker, self._adopt, self._threads = make_worker, adopt, threads

    def placed(self) -> None:
        """Answered as soon as the actor has a place, so that the time to find one is told from that to open."""

    def open(self) -> None:
        """Make the worker; not in `__init__`, where an error would look like the death of the actor."""
        limit_threads(self._threads)
        self._worker = self._make_worker()
        limit_threads(self._threads)  # torch is loaded now

    def do(self, unit_id: int) -> _Answer[R]:
        """Do one unit, and describe it."""
        limit_threads(self._threads)  # OpenMP counts for each calling thread
        return _Answer(self._worker.do(unit_id), resident_bytes())

    def adopt(self, unit_id: int) -> _Answer[R]:
        """Describe one unit that is there already."""
        assert self._adopt is not None, "units to adopt need a function that does it"
        return _Answer(self._adopt(unit_id), resident_bytes())


@dataclass(frozen=True, slots=True)
class _Open:
    """An actor was asked to make its worker."""

    actor_id: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """An actor was asked whether it has a place."""

    actor_id: int


class Pool(Generic[R]):
    """The driver's side: carries out what a `Schedule` orders, and tells it what comes of that.

    What a unit writes follows from its number alone, so it does not matter by whom or how often it is done; an actor
    that dies costs no more than its units' time.

    Args:
        work: how messages call it.
        make_worker: makes what does units, inside an actor; picklable.
        size: what to ask Ray for.
        patience: how much trouble to bear.
        adopt: describes a unit that is there already, or raises; picklable. None where nothing records what was
            written, so that of two that did a unit it does not matter who was last.
        on_news: called in the driver with all that happens to units and actors.
    """

    def __init__(
        self,
        work: Work,
        make_worker: Callable[[], Worker[R]],
        size: PoolSize,
        patience: Patience,
        *,
        adopt: Callable[[int], R] | None = None,
        on_news: Callable[[News[R]], None] = lambda news: None,
    ) -> None:
        self._work, self._make_worker, self._adopt = work, make_worker, adopt
        self._size, self._patience, self._on_news = size, patience, on_news
        self._schedule: Schedule[R] = Schedule(work, patience, self._hear)
        self._actors: dict[int, Any] = {}
        self._calls: dict[ray.ObjectRef, Call | _Open | _Placed] = {}
        self._next_look_s = 0.0
        self._next_word_s = _SAY_WAITING_S

    @property
    def num_open(self) -> int:
        """Actors at work."""
        return self._schedule.num_open

    @property
    def done(self) -> dict[int, R]:
        """Unit to result."""
        return self._schedule.units.done

    @property
    def set_aside(self) -> dict[int, str]:
        """Unit to why it failed the last time."""
        return self._schedule.units.set_aside

    def run(self, do: Iterable[int], adopt: Iterable[int] = ()) -> None:
        """Do units in this order, and describe others that are there already; one that fails goes to the end.

        Raises:
            SioRayError: of the work's `error`, as actors died, or writing failed, many times in a row; or one of the
                work's `fatal` errors, as a worker raised it.
            ResourceError: no actor found a place in time.
        """
        self._schedule.add(do, adopt)
        try:
            while not self._schedule.is_over:
                self._look()
                self._take_in(timeout_s=_TICK_S)
            self._settle_doubles()
        finally:
            for actor in self._actors.values():
                ray.kill(actor)

    def _look(self) -> None:
        """Now and then, tell the schedule the time, and how large the cluster is."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _TICK_S
        self._schedule.tick(now_s, self._size.wanted())
        self._obey()
        waited_s = self._schedule.waited_s(now_s)
        if self.num_open:
            self._next_word_s = _SAY_WAITING_S
        elif waited_s >= self._patience.max_wait_s and self._size.capacity() == 0:
            raise self._size.no_place(self._work)
        elif waited_s >= self._next_word_s:
            self._next_word_s += _SAY_WAITING_S
            what = (
                "an actor to open" if self._schedule.is_opening else f"a place for an actor ({self._size.describe()})"
            )
            console.print(f"  waiting for {what} since {waited_s:.0f} s")

    @cached_property
    def _make_actor(self) -> Callable[[], Any]:
        """Starts one; what it is made of is stored once, not sent with each, as it may know every unit there is."""
        remote = ray.remote(max_concurrency=2, **self._size.options())(PoolActor)
        parts = ray.put(self._make_worker), ray.put(self._adopt), self._size.threads_per_actor
        return lambda: remote.remote(*parts)

    # What the schedule orders.

    def _obey(self) -> None:
        while self._schedule.orders:
            self._carry_out(self._schedule.orders.popleft())

    def _carry_out(self, order: Order) -> None:
        match order:
            case Start(actor_id):
                self._actors[actor_id] = self._make_actor()
                self._calls[self._actors[actor_id].placed.remote()] = _Placed(actor_id)
                self._calls[self._actors[actor_id].open.remote()] = _Open(actor_id)
            case Call(actor_id, method, unit_id):
                self._calls[getattr(self._actors[actor_id], method).remote(unit_id)] = order
            case Kill(actor_id):
                ray.kill(self._actors[actor_id])  # kept until its calls have ended

    # What came back.

    def _take_in(self, timeout_s: float) -> None:
        """Tell the schedule of every call that has ended; wait for the first."""
        if not self._calls:
            time.sleep(timeout_s)
            return
        refs = list(self._calls)
        ended, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ended and len(refs) > 1:
            ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ended:
            call = self._calls.pop(ref)
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                self._tell_raised(call, error.cause or error)
            except ray.exceptions.RayError as error:  # Ray's guard of memory kills with an error of its own
                self._tell_died(call, error)
            else:
                self._tell_ended_well(call, answer)
            self._obey()  # before the next, which may tell that an actor is no more

    def _tell_ended_well(self, call: Call | _Open | _Placed, answer: Any) -> None:
        now_s = time.monotonic()
        if isinstance(call, _Open):
            self._schedule.opened(call.actor_id, now_s)
        elif isinstance(call, _Placed):
            self._schedule.placed(call.actor_id, now_s)
        else:
            memory_bytes = answer.memory_bytes
            self._schedule.finished(call.actor_id, call.unit_id, answer.result, now_s, memory_bytes=memory_bytes)

    def _tell_raised(self, call: Call | _Open | _Placed, error: BaseException) -> None:
        if isinstance(call, _Open):
            self._schedule.failed_to_open(call.actor_id, error)
        elif isinstance(call, Call):
            self._schedule.raised(call.actor_id, call.unit_id, error, time.monotonic())

    def _tell_died(self, call: Call | _Open | _Placed, error: ray.exceptions.RayError) -> None:
        """An actor has died: the cluster is looked at, at once, for a place for another."""
        if isinstance(call, _Placed):
            return  # its `open` tells that
        self._next_look_s = 0.0
        self._actors.pop(call.actor_id, None)
        unit_id = None if isinstance(call, _Open) else call.unit_id
        reason, now_s = _why_it_died(error), time.monotonic()
        self._schedule.died(call.actor_id, unit_id, reason, now_s, with_node="node has died" in str(error))

    def _hear(self, news: News[R]) -> None:
        if isinstance(news, UnitUnusable):
            console.print(f"  {self._work.doing} again what cannot be used: {news.reason}", markup=False)
        self._on_news(news)

    def _settle_doubles(self) -> None:
        """Describe units once more whose second writer might have come in last.

        On one kind of device both write the same bytes; a pool of several kinds is why this is looked at.
        """
        late = [ref for ref, call in self._calls.items() if isinstance(call, Call)]
        for actor_id in {self._calls[ref].actor_id for ref in late} & self._actors.keys():
            ray.kill(self._actors[actor_id])
        if late:
            ray.wait(late, num_returns=len(late))
        if self._adopt is None:
            return
        for unit_id in sorted(self._schedule.units.doubtful & self.done.keys()):
            there = ray.get(ray.remote(num_cpus=0)(_describe).remote(self._adopt, unit_id))
            if there.digest != self.done[unit_id].digest:
                self.done[unit_id] = there


def _describe(adopt: Callable[[int], R], unit_id: int) -> R:
    """A task, so that the unit's bytes do not pass through the driver."""
    return adopt(unit_id)


def _why_it_died(error: ray.exceptions.RayError) -> str:
    """In one line; of an actor that could not even be made, below Ray's own words and a traceback."""
    told_last = isinstance(error, ray.exceptions.RayActorError) and "creation task" in str(error)
    return str(error).strip().splitlines()[-1] if told_last else first_line(error)
