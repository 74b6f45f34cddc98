"""The Ray edge of generation: a pool of actors that draws every missing shard exactly once."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray

from sio_ray.cluster import limit_threads
from sio_ray.errors import CheckpointError, ConfigError, GenerationError, ImageSetError, ResourceError
from sio_ray.generate.notes import DrawnShard
from sio_ray.generate.resources import Patience, PoolSize
from sio_ray.progress import console

if TYPE_CHECKING:  # an actor loads torch only if its sampler does
    from sio_ray.generate.calibrate import Calibration
    from sio_ray.generate.plan import Plan
    from sio_ray.generate.samplers.base import Sampler
    from sio_ray.generate.shards import ShardWriter

#: So often the pool looks whether the cluster grew, a shard is late, or nobody works.
_TICK_S = 0.5

#: Actors that die, or shards that cannot be written, one after the other with none done in between.
_MAX_TROUBLE_IN_A_ROW = 10

#: With nothing left to give out, a shard that takes so many times as long as most is given to a second actor too.
_STRAGGLER_FACTOR = 2.0
_STRAGGLER_MIN_S = 1.0

#: So often a pool without a place for any actor says what it waits for.
_SAY_WAITING_S = 30.0

#: Errors of the setting, not of a shard: they would come again on every actor.
_FATAL = (ConfigError, CheckpointError, ImageSetError)


class ShardActor:
    """Holds one sampler; called from two threads, so that one shard is written while the next is drawn."""

    def __init__(
        self, make_writer: Callable[[], ShardWriter], adopt: Callable[[int], DrawnShard], threads: int
    ) -> None:
        self._make_writer, self._adopt, self._threads = make_writer, adopt, threads

    def open(self) -> None:
        """Load the generator; not in `__init__`, where an error would look like the death of the actor."""
        limit_threads(self._threads)
        self._writer = self._make_writer()
        limit_threads(self._threads)  # torch is loaded now

    def draw(self, shard_id: int) -> DrawnShard:
        """Draw one shard, write it, and describe it."""
        limit_threads(self._threads)  # OpenMP counts for each calling thread
        return self._writer.draw(shard_id)

    def adopt(self, shard_id: int) -> DrawnShard:
        """Describe one shard that is there already."""
        return self._adopt(shard_id)


@dataclass(eq=False)
class _Worker:
    """An actor as the driver sees it.

    Attributes:
        handle: of the actor.
        is_open: it has loaded its generator, and so has a place.
        calls: what it is at.
        timed_out: the shard for which the pool has killed it.
    """

    handle: Any
    is_open: bool = False
    calls: set[ray.ObjectRef] = field(default_factory=set)
    timed_out: int | None = None


@dataclass(eq=False)
class _Call:
    """What an actor was asked for; `start_s` is when it could begin, after what it was asked for before."""

    worker: _Worker
    method: str
    shard_id: int
    start_s: float


class Pool:
    """The driver's side: which shard is with which actor, and what is left.

    As a shard is a function of the plan alone, it does not matter by whom or how often it is drawn; an actor that dies
    costs no more than its shards' time.

    Args:
        make_writer: makes what draws, inside an actor; picklable.
        adopt: describes a shard that is there already, or raises; picklable.
        size: what to ask Ray for.
        patience: how much trouble to bear.
        on_done: called in the driver with each shard that is written.
    """

    def __init__(
        self,
        make_writer: Callable[[], ShardWriter],
        adopt: Callable[[int], DrawnShard],
        size: PoolSize,
        patience: Patience,
        on_done: Callable[[DrawnShard], None] = lambda drawn: None,
    ) -> None:
        self._make_writer, self._adopt = make_writer, adopt
        self._size, self._patience, self._on_done = size, patience, on_done
        self._workers: list[_Worker] = []
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
        self.done: dict[int, DrawnShard] = {}
        self.set_aside: dict[int, str] = {}

    @property
    def num_open(self) -> int:
        """Actors at work."""
        return sum(worker.is_open for worker in self._workers)

    def run(self, draw: Iterable[int], adopt: Iterable[int] = ()) -> None:
        """Draw shards, and describe others that are there already; one that fails goes to the end of the queue.

        Raises:
            GenerationError: actors died, or writing failed, many times in a row.
            ResourceError: no actor found a place in time.
            ConfigError: the sampler's batch does not fit the GPU.
            CheckpointError: the generator cannot be loaded.
            ImageSetError: the curation rule's classifier does not fit.
        """
        self._queue.extend([("adopt", shard_id) for shard_id in adopt])
        self._queue.extend([("draw", shard_id) for shard_id in draw])
        try:
            while self._queue or self._open_shards():
                self._look()
                self._give_out()
                self._take_in(timeout_s=_TICK_S)
            self._settle_doubles()
        finally:
            for worker in self._workers:
                ray.kill(worker.handle)

    # Which actors there are.

    def _look(self) -> None:
        """Now and then: start actors for which there is a place, end those that hang, copy what is late."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _TICK_S
        left = len(self._queue) + len(self._open_shards())
        for _ in range(min(self._size.wanted(), left) - len(self._workers)):
            self._start_worker()
        for call in list(self._calls.values()):
            is_late = call.method == "draw" and now_s - call.start_s > self._patience.shard_timeout_s
            if is_late and call.worker.timed_out is None:
                call.worker.timed_out = call.shard_id
                ray.kill(call.worker.handle)
        if not self._queue:
            self._copy_stragglers(now_s)
        self._check_somebody_works(now_s)

    def _start_worker(self) -> None:
        actor = ray.remote(max_concurrency=2, **self._size.options())(ShardActor)
        worker = _Worker(actor.remote(self._make_writer, self._adopt, self._size.threads_per_actor))
        self._workers.append(worker)
        self._call(worker, "open")

    def _check_somebody_works(self, now_s: float) -> None:
        if self.num_open:
            self._alone_since_s = None
            return
        if self._alone_since_s is None:
            self._alone_since_s = self._said_waiting_s = now_s
        waited_s = now_s - self._alone_since_s
        if self._size.capacity() == 0 and waited_s >= self._patience.max_wait_s:
            raise self._size.no_place()
        if now_s - self._said_waiting_s >= _SAY_WAITING_S:
            self._said_waiting_s = now_s
            console.print(f"  waiting for a place for an actor ({self._size.describe()}) since {waited_s:.0f} s")

    # Who does what.

    def _open_shards(self) -> set[int]:
        return {call.shard_id for call in self._calls.values() if call.method != "open"} - self.done.keys()

    def _call(self, worker: _Worker, method: str, shard_id: int | None = None) -> None:
        arguments = () if shard_id is None else (shard_id,)
        ref = getattr(worker.handle, method).remote(*arguments)
        worker.calls.add(ref)
        self._calls[ref] = _Call(worker, method, -1 if shard_id is None else shard_id, time.monotonic())

    def _give_out(self) -> None:
        """One shard to each actor, and a second one ahead while there are enough for all.

        A shard whose actor has died is drawn with no other beside it, so that a shard that kills its actors is told
        from one that was there by chance.
        """
        while self._queue and self._queue[0][1] in self.done:  # by its other copy
            self._queue.popleft()
        for ahead in (1, 2):
            for worker in self._workers:
                if not self._queue or (ahead == 2 and len(self._queue) < self.num_open):
                    return
                at_work = {self._calls[ref].shard_id for ref in worker.calls}
                if not worker.is_open or worker.timed_out is not None or len(at_work) >= ahead:
                    continue
                if ahead == 2 and self._suspects & {*at_work, self._queue[0][1]}:
                    continue
                self._call(worker, *self._queue.popleft())

    def _copy_stragglers(self, now_s: float) -> None:
        """Near the end: give what is late to actors that have nothing to do; the first whole shard wins."""
        idle = [worker for worker in self._workers if worker.is_open and not worker.calls]
        if not idle or not self._durations_s:
            return
        late_s = max(_STRAGGLER_MIN_S, _STRAGGLER_FACTOR * statistics.median(self._durations_s))
        late = sorted(
            (call.start_s, call.shard_id)
            for call in self._calls.values()
            if call.method == "draw"
            and call.shard_id not in self.done.keys() | self._twice
            and now_s - call.start_s > late_s
        )
        for worker, (_, shard_id) in zip(idle, late, strict=False):
            self._twice.add(shard_id)
            self._call(worker, "draw", shard_id)

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
            call.worker.calls.discard(ref)
            for behind in call.worker.calls:
                self._calls[behind].start_s = time.monotonic()
            try:
                self._finish(call, ray.get(ref))
            except ray.exceptions.RayActorError as error:
                self._bury(call, error)
            except ray.exceptions.RayTaskError as error:
                self._fail(call, error)

    def _finish(self, call: _Call, result: DrawnShard | None) -> None:
        self._trouble_in_a_row = 0
        if result is None:
            call.worker.is_open = True
            return
        if call.method == "draw":
            self._durations_s.append(time.monotonic() - call.start_s)
        first = self.done.setdefault(call.shard_id, result)
        if first is result:
            self.set_aside.pop(call.shard_id, None)  # its other copy had failed
            self._on_done(result)
        elif first.entry.sha256 == result.entry.sha256:
            self._twice.discard(call.shard_id)

    def _bury(self, call: _Call, error: ray.exceptions.RayActorError) -> None:
        """An actor has died: its shards go back, and the cluster is looked at for a place for another."""
        worker = call.worker
        if worker in self._workers:
            self._workers.remove(worker)
            self._next_look_s = 0.0
            if worker.timed_out is None and not _node_died(error):
                self._count_trouble(error)
        if call.method == "open" or call.shard_id in self.done:
            return
        if worker.timed_out == call.shard_id:
            self._count_failure(call, f"took longer than generate.shard_timeout_s={self._patience.shard_timeout_s:g}")
        elif worker.timed_out is None and not _node_died(error):
            self._suspects.add(call.shard_id)
            self._count_failure(call, f"its actor died ({_first_line(error)})")
        else:
            self._queue.append((call.method, call.shard_id))

    def _fail(self, call: _Call, error: ray.exceptions.RayTaskError) -> None:
        """A call has raised."""
        cause = error.cause or error
        if call.method == "adopt":
            console.print(f"  drawing again what cannot be used: {_first_line(cause)}", markup=False)
            self._queue.append(("draw", call.shard_id))
            return
        if isinstance(cause, _FATAL):
            raise cause
        if call.method == "open":
            self._workers.remove(call.worker)
            ray.kill(call.worker.handle)
            self._count_trouble(cause)
        elif call.shard_id not in self.done:
            if isinstance(cause, ResourceError):
                self._count_trouble(cause)
            self._count_failure(call, _first_line(cause))

    def _count_failure(self, call: _Call, reason: str) -> None:
        self._failures[call.shard_id] += 1
        if self._failures[call.shard_id] < self._patience.max_failures_per_shard:
            self._queue.append((call.method, call.shard_id))
        else:
            self.set_aside[call.shard_id] = reason

    def _count_trouble(self, error: BaseException) -> None:
        self._trouble_in_a_row += 1
        if self._trouble_in_a_row >= _MAX_TROUBLE_IN_A_ROW:
            reason = _first_line(error).rstrip(".")
            raise GenerationError(
                f"{_MAX_TROUBLE_IN_A_ROW} times in a row an actor died, or nothing could be written, the last time: "
                f"{reason}. Look for missing memory, a full disk or a broken driver, then run the same command again: "
                "finished shards are kept."
            ) from error

    def _settle_doubles(self) -> None:
        """Describe shards once more whose second writer might have come in last.

        On one kind of device both write the same bytes; a pool of several kinds is why this is looked at.
        """
        late = [ref for ref, call in self._calls.items() if call.method == "draw"]
        for ref in late:
            ray.kill(self._calls[ref].worker.handle)
        if late:
            ray.wait(late, num_returns=len(late))
        for shard_id in sorted(self._twice & self.done.keys()):
            there = ray.get(ray.remote(num_cpus=0)(_describe).remote(self._adopt, shard_id))
            if there.entry.sha256 != self.done[shard_id].entry.sha256:
                self.done[shard_id] = there


def _describe(adopt: Callable[[int], DrawnShard], shard_id: int) -> DrawnShard:
    """A task, so that the shard's bytes do not pass through the driver."""
    return adopt(shard_id)


def _node_died(error: ray.exceptions.RayActorError) -> bool:
    """Whether the actor died of its node going away (spot, scaled down): no sign of trouble with the work."""
    return "node has died" in str(error)


def _first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    # An actor that could not even be made tells the reason last, below Ray's own words and a traceback.
    told_last = isinstance(error, ray.exceptions.RayActorError) and "creation task" in str(error)
    return lines[-1 if told_last else 0] if lines else type(error).__name__


def calibrate_on_actor(
    make_sampler: Callable[[], Sampler], plan: Plan, size: PoolSize, batch_sizes: list[int]
) -> tuple[str, list[Calibration]]:
    """Measure batch sizes where an actor would run.

    Returns:
        The name of the device, and what was measured.

    Raises:
        ResourceError: the cluster holds no such actor.
    """
    if size.capacity() == 0:
        raise size.no_place()

    def work() -> tuple[str, list[Calibration]]:
        from sio_ray.generate.calibrate import calibrate

        sampler = make_sampler()
        limit_threads(size.threads_per_actor)
        return sampler.device_name, calibrate(sampler, plan, batch_sizes)

    measured: tuple[str, list[Calibration]] = ray.get(ray.remote(**size.options())(work).remote())
    return measured
