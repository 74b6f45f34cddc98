"""The Ray edge of generation: a pool of actors that draws every missing shard exactly once."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from rich.markup import escape

from sio_ray.cluster import limit_threads
from sio_ray.errors import GenerationError, ResourceError
from sio_ray.generate.plan import Plan, ShardPlan
from sio_ray.generate.shards import Sampler, adopt_shard, draw_shard
from sio_ray.imageset import ImageSetInfo, ShardEntry
from sio_ray.imageset.storage import Folder
from sio_ray.progress import console, progress_bars

#: Makes the sampler inside an actor; must be picklable, and import what it needs itself.
SamplerFactory = Callable[[], Sampler]

#: Actors that die one after the other without a shard done in between: something is wrong with all of them.
_MAX_DEATHS_IN_A_ROW = 10


@dataclass(frozen=True)
class PoolSize:
    """What the pool asks Ray for.

    Attributes:
        num_actors: at the most; 0 takes as many as the cluster fits.
        threads_per_actor: CPU cores of each, and its threads.
        gpus_per_actor: GPUs (or a fraction of one) of each.
    """

    num_actors: int
    threads_per_actor: int
    gpus_per_actor: float

    def fit(self, num_shards: int) -> int:
        """How many actors to start for so many shards on this cluster.

        Raises:
            ResourceError: not even one fits.
        """
        have = ray.cluster_resources()
        most = int(have.get("CPU", 0) // self.threads_per_actor)
        if self.gpus_per_actor:
            most = min(most, int(have.get("GPU", 0) / self.gpus_per_actor + 1e-6))
        if most < 1:
            raise ResourceError(
                f"generate needs {self.threads_per_actor} CPUs and {self.gpus_per_actor:g} GPUs for one actor, this "
                f"Ray cluster has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}; lower generate.threads_per_actor "
                "or generate.gpus_per_actor, or connect to a larger cluster by cluster.address."
            )
        return max(1, min(most, self.num_actors or most, num_shards))


class ShardActor:
    """Holds one sampler and draws one shard after the other."""

    def __init__(self, make_sampler: SamplerFactory, info: ImageSetInfo, uri: str, threads: int) -> None:
        limit_threads(threads)
        self._make_sampler = make_sampler
        self._sampler: Sampler | None = None
        self._info, self._folder = info, Folder(uri)

    def draw(self, plan: ShardPlan) -> ShardEntry:
        """Draw one shard, write it, and describe it."""
        if self._sampler is None:  # not in __init__: there an error would look like the death of the actor
            self._sampler = self._make_sampler()
        return draw_shard(self._sampler, plan, self._info, self._folder)

    def adopt(self, plan: ShardPlan) -> ShardEntry:
        """Describe one shard that is there already."""
        return adopt_shard(plan, self._info, self._folder)


class _Pool:
    """The driver's side: which shard is with which actor, and what is left."""

    def __init__(self, start_actor: Callable[[], Any], num_actors: int, max_failures_per_shard: int) -> None:
        self._start_actor, self._max_failures = start_actor, max_failures_per_shard
        self._idle = [start_actor() for _ in range(num_actors)]
        self._running: dict[ray.ObjectRef, tuple[Any, str, ShardPlan]] = {}
        self._failures: collections.Counter[int] = collections.Counter()
        self._deaths_in_a_row = 0
        self.set_aside: dict[int, str] = {}

    def run(self, todo: list[tuple[str, ShardPlan]], on_done: Callable[[ShardEntry], None]) -> None:
        """Do every (method, shard) pair; a pair that fails goes to the end of the queue."""
        queue = collections.deque(todo)
        while queue or self._running:
            while queue and self._idle:
                method, shard = queue.popleft()
                actor = self._idle.pop()
                self._running[getattr(actor, method).remote(shard)] = (actor, method, shard)
            done, _ = ray.wait(list(self._running), num_returns=1)
            actor, method, shard = self._running.pop(done[0])
            try:
                on_done(ray.get(done[0]))
                self._deaths_in_a_row = 0
            except ray.exceptions.RayActorError as error:
                actor = self._start_actor()
                self._deaths_in_a_row += 1
                if self._deaths_in_a_row >= _MAX_DEATHS_IN_A_ROW:
                    raise GenerationError(
                        f"{_MAX_DEATHS_IN_A_ROW} actors died in a row ({_first_line(error)}); look for missing memory "
                        "or a broken driver, then run the same command again: finished shards are kept."
                    ) from error
                queue.append(("draw", shard))
            except ray.exceptions.RayTaskError as error:
                if method == "adopt":
                    console.print(
                        f"  drawing again what cannot be used: {_first_line(error.cause or error)}", markup=False
                    )
                    queue.append(("draw", shard))
                else:
                    self._fail(shard, error, queue)
            self._idle.append(actor)

    def _fail(self, shard: ShardPlan, error: ray.exceptions.RayTaskError, queue: Any) -> None:
        self._failures[shard.shard_id] += 1
        if self._failures[shard.shard_id] < self._max_failures:
            queue.append(("draw", shard))
        else:
            self.set_aside[shard.shard_id] = _first_line(error.cause or error)

    def close(self) -> None:
        """Let all actors go."""
        for actor in [*self._idle, *[actor for actor, _, _ in self._running.values()]]:
            ray.kill(actor)


def draw_missing_shards(
    make_sampler: SamplerFactory,
    plan: Plan,
    info: ImageSetInfo,
    folder: Folder,
    size: PoolSize,
    *,
    max_failures_per_shard: int,
) -> list[ShardEntry]:
    """Draw every shard of a plan that the folder does not hold yet.

    An actor that dies is replaced and its shard drawn again; as a shard is a function of the plan alone, it does not
    matter by whom or how often it is drawn.

    Returns:
        One entry per shard of the plan, in order.

    Raises:
        GenerationError: shards failed `max_failures_per_shard` times; all others are finished and kept.
        ResourceError: the cluster fits no actor.
    """
    there = folder.list()
    shards = [plan.shard(shard_id) for shard_id in range(plan.num_shards)]
    todo = [("adopt" if shard.name in there else "draw", shard) for shard in shards]
    options = {"num_cpus": size.threads_per_actor, "num_gpus": size.gpus_per_actor}

    def start_actor() -> Any:
        return ray.remote(**options)(ShardActor).remote(make_sampler, info, folder.uri, size.threads_per_actor)

    entries: dict[str, ShardEntry] = {}
    num_there = sum(method == "adopt" for method, _ in todo)
    if num_there:
        console.print(f"  {num_there} of {len(shards)} shards are there already; drawing the others")
    pool = _Pool(start_actor, size.fit(len(shards)), max_failures_per_shard)
    try:
        with progress_bars() as bars:
            task = bars.add_task(f"drawing {escape(folder.name)}", total=plan.num_images, unit="images", note="")

            def on_done(entry: ShardEntry) -> None:
                entries[entry.name] = entry
                bars.update(task, advance=entry.num_images)

            pool.run(todo, on_done)
    finally:
        pool.close()
    if pool.set_aside:
        raise GenerationError(_describe_set_aside(pool.set_aside, plan, max_failures_per_shard))
    return [entries[shard.name] for shard in shards]


def _describe_set_aside(set_aside: dict[int, str], plan: Plan, times: int) -> str:
    first, error = next(iter(sorted(set_aside.items())))
    labels = sorted({int(label) for shard_id in set_aside for label in plan.shard(shard_id).labels})
    return (
        f"{len(set_aside)} of {plan.num_shards} shards failed {times} times each: shards {sorted(set_aside)}, "
        f"labels {labels}; "
        f"the first error (shard {first}): {error} All other shards are kept; run the same command to retry only these."
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
