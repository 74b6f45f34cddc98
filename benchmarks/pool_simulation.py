"""A pool simulated with its real schedule: only actors, nodes and the clock are made up.

An actor samples one shard at a time while a second thread writes the last one. Nodes of eight GPUs join through the
first hour, go away (spot) and come back; shards take a log-normal time, some several times as long; some calls fail.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from sio_ray.errors import GenerationError
from sio_ray.generate.notes import DrawnShard
from sio_ray.imageset import ShardEntry
from sio_ray.imageset.shard import shard_name
from sio_ray.pool.messages import Call, Kill, Start
from sio_ray.pool.resources import Patience, Work
from sio_ray.pool.schedule import Schedule

DRAWING = Work("generate", "drawing", "cpus", "gpus", "timeout", GenerationError, ())


@dataclass(frozen=True)
class Scenario:
    """What is simulated; all times in seconds.

    Attributes:
        num_actors: places for actors once the cluster has grown, one GPU each.
        num_shards: to draw.
        sample_s: the median time of a shard on the GPU; log-normal with `spread`.
        spread: standard deviation of its logarithm.
        slow_share: of shards that take `slow_factor` times as long.
        slow_factor: see `slow_share`.
        write_s: of a shard, beside the next one's sampling.
        open_s: from the start of an actor to its first shard: process, imports, weights.
        gpus_per_node: nodes come and go whole.
        grow_s: until when the last node has joined; a quarter is there from the start.
        node_life_s: mean time until a node goes away without notice.
        replace_s: until another one has joined in its place.
        failure_share: of calls that raise.
        crash_share: of calls over which the actor dies, its node being well.
        tick_s: between looks of the driver at the cluster.
        driver_call_s: of the driver for each answer beside the schedule itself: Ray's own cost of a call.
        seed: of all that is drawn.
    """

    num_actors: int
    num_shards: int
    sample_s: float = 100.0
    spread: float = 0.1
    slow_share: float = 0.002
    slow_factor: float = 5.0
    write_s: float = 5.0
    open_s: float = 60.0
    gpus_per_node: int = 8
    grow_s: float = 3600.0
    node_life_s: float = 12 * 3600.0
    replace_s: float = 300.0
    failure_share: float = 0.001
    crash_share: float = 0.0005
    tick_s: float = 0.5
    driver_call_s: float = 0.0025
    seed: int = 0


@dataclass(eq=False)
class _Actor:
    """A simulated one; `gpu_free_s` is when its sampler can begin the next shard."""

    node: int
    gpu_free_s: float
    opened_s: float | None = None
    is_dead: bool = False
    with_node: bool = False
    calls: set[int] = field(default_factory=set)


class Simulation:
    """Plays one scenario by its events, each handled by the driver in turn as it would be."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.now_s = self._driver_free_s = 0.0
        self._capacity = 0
        self._free: dict[int, int] = {}  # node to its free places
        self._waiting: list[int] = []
        self._actors: dict[int, _Actor] = {}
        self.busy_s = self.open_s = 0.0
        self.num_calls = self.num_deaths = self.num_done = 0
        self.answers_s: list[float] = []  # CPU time of the schedule for each
        self.ticks_s: list[float] = []
        self.schedule: Schedule[DrawnShard] = Schedule(DRAWING, Patience(max_trouble_in_a_row=10**9))

    def run(self) -> None:
        """Until every shard is done or set aside."""
        scenario = self._scenario
        num_nodes = -(-scenario.num_actors // scenario.gpus_per_node)
        there = max(1, num_nodes // 4)
        for node in range(num_nodes):
            joins_s = 0.0 if node < there else scenario.grow_s * (node - there + 1) / max(1, num_nodes - there)
            self._at(joins_s, self._join_of(node))
        self.schedule.add(range(scenario.num_shards))
        self._at(0.0, self._tick)
        while not self.schedule.is_over:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        self.now_s = max(self.now_s, self._driver_free_s)
        for actor in self._actors.values():
            if not actor.is_dead and actor.opened_s is not None:
                self._leave(actor)

    def _at(self, time_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), event))

    # The driver.

    def _tell(self, event: Callable[[float], None], call_s: float = 0.0) -> None:
        """The driver handles one event once it is free, and its orders are carried out."""
        now_s = self._driver_free_s = max(self.now_s, self._driver_free_s) + call_s
        start_s = time.perf_counter()
        event(now_s)
        (self.answers_s if call_s else self.ticks_s).append(time.perf_counter() - start_s)
        while self.schedule.orders:
            match self.schedule.orders.popleft():
                case Start(actor_id):
                    self._waiting.append(actor_id)
                case Kill(actor_id):
                    self._die(actor_id, with_node=False, is_told=True)
                case Call(actor_id, _, unit_id):
                    self._work(actor_id, unit_id, now_s)
        self._place(now_s)

    def _tick(self) -> None:
        self._tell(lambda now_s: self.schedule.tick(now_s, max(1, self._capacity)))
        self._at(self.now_s + self._scenario.tick_s, self._tick)

    # Nodes and actors.

    def _join_of(self, node: int) -> Callable[[], None]:
        size = min(self._scenario.gpus_per_node, self._scenario.num_actors - node * self._scenario.gpus_per_node)

        def join() -> None:
            self._free[node] = size
            self._capacity += size
            self._at(self.now_s + self._random.expovariate(1 / self._scenario.node_life_s), leave)
            self._place(self.now_s)

        def leave() -> None:
            del self._free[node]
            self._capacity -= size
            for actor_id in [k for k, actor in self._actors.items() if actor.node == node and not actor.is_dead]:
                self._die(actor_id, with_node=True)
            self._at(self.now_s + self._scenario.replace_s, join)

        return join

    def _place(self, now_s: float) -> None:
        """Start waiting actors where there is room."""
        while self._waiting:
            node = next((node for node, places in self._free.items() if places), None)
            if node is None:
                return
            self._free[node] -= 1
            actor_id = self._waiting.pop(0)
            self._actors[actor_id] = _Actor(node, now_s)
            self._at(now_s + self._scenario.open_s, lambda actor_id=actor_id: self._open(actor_id))

    def _open(self, actor_id: int) -> None:
        actor = self._actors[actor_id]
        if actor.is_dead:
            return
        actor.opened_s = actor.gpu_free_s = self.now_s
        self._tell(lambda now_s: self.schedule.opened(actor_id, now_s), self._scenario.driver_call_s)

    def _die(self, actor_id: int, *, with_node: bool, is_told: bool = False) -> None:
        """It dies now; the driver is told for each of its calls."""
        actor = self._actors[actor_id]
        actor.is_dead, actor.with_node = True, with_node
        self.num_deaths += 1
        if actor.opened_s is not None:
            self._leave(actor)
        if not with_node:
            self._free[actor.node] += 1
        if actor.opened_s is None and not is_told:
            self._at(self.now_s, lambda: self._tell_death(actor_id, None))
        for unit_id in sorted(actor.calls):
            self._at(self.now_s, lambda unit_id=unit_id: self._tell_death(actor_id, unit_id))

    def _leave(self, actor: _Actor) -> None:
        """Count its time; what it has not sampled yet it will not."""
        assert actor.opened_s is not None, "it was never open"
        self.open_s += self.now_s - actor.opened_s
        self.busy_s -= max(0.0, actor.gpu_free_s - self.now_s)

    def _tell_death(self, actor_id: int, unit_id: int | None) -> None:
        with_node = self._actors[actor_id].with_node
        self._tell(
            lambda now_s: self.schedule.died(actor_id, unit_id, "it died", now_s, with_node=with_node),
            self._scenario.driver_call_s,
        )

    # Shards.

    def _work(self, actor_id: int, unit_id: int, now_s: float) -> None:
        """An actor is asked for a shard: it samples that after the one before, then writes it beside the next."""
        scenario, actor = self._scenario, self._actors[actor_id]
        self.num_calls += 1
        if actor.is_dead:  # the driver does not know yet
            self._at(now_s, lambda: self._tell_death(actor_id, unit_id))
            return
        seconds = self._random.lognormvariate(0.0, scenario.spread) * scenario.sample_s
        if self._random.random() < scenario.slow_share:
            seconds *= scenario.slow_factor
        actor.calls.add(unit_id)
        actor.gpu_free_s = max(actor.gpu_free_s, now_s) + seconds
        self.busy_s += seconds
        self._at(actor.gpu_free_s + scenario.write_s, lambda: self._end(actor_id, unit_id))

    def _end(self, actor_id: int, unit_id: int) -> None:
        scenario, actor = self._scenario, self._actors[actor_id]
        if actor.is_dead:
            return
        fate = self._random.random()
        if fate < scenario.crash_share:
            self._die(actor_id, with_node=False)
            return
        actor.calls.remove(unit_id)
        if fate < scenario.crash_share + scenario.failure_share:
            error = GenerationError("no picture")
            self._tell(lambda now_s: self.schedule.raised(actor_id, unit_id, error, now_s), scenario.driver_call_s)
            return
        self.num_done += 1
        drawn = drawn_shard(unit_id, scenario.num_shards)
        self._tell(lambda now_s: self.schedule.finished(actor_id, unit_id, drawn, now_s), scenario.driver_call_s)


def drawn_shard(shard_id: int, num_shards: int) -> DrawnShard:
    """What the driver keeps of a shard; a hash and a size as long as real ones."""
    entry = ShardEntry(
        name=shard_name(shard_id, num_shards),
        num_images=1024,
        num_bytes=100_000_000 + shard_id,
        sha256=f"{shard_id:064x}",
        device="NVIDIA H100 80GB HBM3",
    )
    return DrawnShard(shard_id=shard_id, entry=entry)


def simulate(scenario: Scenario) -> dict[str, Any]:
    """Play a scenario; what it cost, and whether every shard is done or set aside."""
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    simulation = Simulation(scenario)
    simulation.run()
    units = simulation.schedule.units
    assert len(units.done) + len(units.set_aside) == scenario.num_shards, "a shard is lost"
    answer_s, tick_s = statistics.median(simulation.answers_s), statistics.median(simulation.ticks_s)
    driver_s = len(simulation.answers_s) * (answer_s + scenario.driver_call_s) + len(simulation.ticks_s) * tick_s
    return {
        "actors": scenario.num_actors,
        "shards": scenario.num_shards,
        "shard_s": scenario.sample_s,
        "hours": round(simulation.now_s / 3600, 2),
        "actors_died": simulation.num_deaths,
        "set_aside": len(units.set_aside),
        "calls_per_shard": round(simulation.num_calls / scenario.num_shards, 4),
        "done_twice": simulation.num_done - len(units.done),
        "gpu_idle_share": round(1 - simulation.busy_s / simulation.open_s, 4),
        "schedule_us_per_answer": round(answer_s * 1e6, 1),
        "schedule_us_per_tick": round(tick_s * 1e6, 1),
        "driver_busy_share": round(driver_s / simulation.now_s, 5),
        "shards_per_s_at_most": round(1 / (answer_s + scenario.driver_call_s)),
        "driver_mb": round((process.memory_info().rss - before_bytes) / 1e6),
    }
