"""What a pool tells of its work while it goes on: the bar, metrics and events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from sio_ray.pool.messages import (
    ActorEnded,
    ActorOpened,
    News,
    Result,
    UnitDone,
    UnitFailed,
    UnitPutBack,
    UnitSetAside,
    UnitUnusable,
)
from sio_ray.progress import CountProgress, console
from sio_ray.watching import metrics
from sio_ray.watching.events import tell

R = TypeVar("R", bound=Result)


class PoolWatch(Generic[R]):
    """Hears of all that happens in a pool, in the driver.

    Args:
        progress: counts images.
        images: in a unit that is done.
        seconds: of an actor in it, by what it did.
        labels: of a unit, for events, `shard` among them.
        adopted: units that are there already, unless they turn out to be unusable.
    """

    def __init__(
        self,
        progress: CountProgress,
        *,
        images: Callable[[R], int],
        seconds: Callable[[R], Mapping[str, float]],
        labels: Callable[[int], dict[str, Any]],
        adopted: Collection[int] = (),
    ) -> None:
        self._progress, self._images, self._seconds, self._labels = progress, images, seconds, labels
        self._adopted = set(adopted)
        self._open: dict[int, int] = {}
        self._places: dict[int, int] = {}
        self._num_retried = self._num_set_aside = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        metrics.show("sio_actors", 0)

    def hear(self, news: News[R]) -> None:
        """Take in what has happened."""
        match news:
            case ActorOpened(actor_id):
                self._opened(actor_id)
            case ActorEnded():
                self._ended(news)
            case UnitDone(actor_id, unit_id, result):
                self._done(actor_id, unit_id, result)
            case UnitFailed(actor_id, unit_id, reason):
                self._failed(actor_id, unit_id, reason)
            case UnitPutBack(unit_id):
                self._num_retried += 1
                metrics.count("sio_shards_total", outcome="retried")
                tell("shard_retried", **self._labels(unit_id))
            case UnitUnusable(unit_id, reason):
                self._adopted.discard(unit_id)
                tell("shard_unusable", reason, level="warning", **self._labels(unit_id))
            case UnitSetAside(unit_id, reason):
                self._num_set_aside += 1
                metrics.count("sio_shards_total", outcome="set_aside")
                tell("shard_set_aside", reason, level="error", **self._labels(unit_id))

    def _opened(self, actor_id: int) -> None:
        taken = self._open.values()
        # The first place that is free, so that there are never more than the pool is large.
        self._open[actor_id] = self._places[actor_id] = next(n for n in range(len(taken) + 1) if n not in taken)
        metrics.show("sio_actors", len(self._open))
        tell("actor_opened", actor=self._places[actor_id], actors=len(self._open))

    def _ended(self, news: ActorEnded) -> None:
        place = self._open.pop(news.actor_id, None)
        metrics.show("sio_actors", len(self._open))
        if news.is_recycled:
            tell("actor_recycled", news.reason, actor=place, actors=len(self._open))
            return
        metrics.count("sio_actor_deaths_total")
        tell("actor_died", news.reason, level="warning", actor=place, actors=len(self._open))

    def _done(self, actor_id: int, unit_id: int, result: R) -> None:
        images, is_new = self._images(result), unit_id not in self._adopted
        self._progress.advance(images, note=self._note(), is_new=is_new)
        if not is_new:
            return
        actor, seconds = self._places[actor_id], self._seconds(result)
        metrics.count("sio_images_total", images, actor=actor)
        metrics.count("sio_shards_total", outcome="done")
        for part, amount in seconds.items():
            metrics.count("sio_shard_seconds_total", amount, part=part)
        spent: dict[str, Any] = {f"{part}_s": round(amount, 3) for part, amount in seconds.items()}
        tell("shard_done", **self._labels(unit_id), actor=actor, images=images, **spent)

    def _failed(self, actor_id: int, unit_id: int, reason: str) -> None:
        labels = self._labels(unit_id)
        if not self._num_retried:  # the first of perhaps many
            console.print(f"  shard {labels['shard']} failed: {reason}", markup=False, soft_wrap=True)
        metrics.count("sio_shards_total", outcome="failed")
        tell("shard_failed", reason, level="warning", **labels, actor=self._places.get(actor_id))

    def _note(self) -> str:
        counts = {"actors": len(self._open), "retried": self._num_retried, "set aside": self._num_set_aside}
        return ", ".join(f"{number} {what}" for what, number in counts.items() if number or what == "actors")
