"""Where every unit is: queued, with one or more actors, done, or set aside; at any moment in exactly one of these."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

from sio_ray.pool.messages import Method, News, Result, UnitDone, UnitFailed, UnitPutBack, UnitSetAside, UnitUnusable

R = TypeVar("R", bound=Result)


class Units(Generic[R]):
    """All units of a pool.

    Args:
        max_failures: then a unit is set aside.
        tell: called with news of units.

    Attributes:
        done: unit to result.
        set_aside: unit to the reason of its last failure.
        num_left: units that are neither.
        queue: units to give out, in turn.
        suspects_queue: likewise, of units over which an actor has died.
        doubtful: units that two actors were at, of which another than the first may have written last.
    """

    def __init__(self, max_failures: int, tell: Callable[[News[R]], None]) -> None:
        self._max_failures, self._tell = max_failures, tell
        self.done: dict[int, R] = {}
        self.set_aside: dict[int, str] = {}
        self.num_left = 0
        self.queue: collections.deque[int] = collections.deque()
        self.suspects_queue: collections.deque[int] = collections.deque()
        self.doubtful: set[int] = set()
        self._suspects: set[int] = set()
        self._to_adopt: set[int] = set()
        self._holders: dict[int, set[int]] = {}
        self._reasons: dict[int, list[str]] = {}

    def add(self, do: Iterable[int], adopt: Iterable[int]) -> None:
        """Queue units, those to adopt first."""
        to_adopt, to_do = list(adopt), list(do)
        self._to_adopt.update(to_adopt)
        self.queue += [*to_adopt, *to_do]
        self.num_left += len(to_adopt) + len(to_do)

    def method(self, unit_id: int) -> Method:
        """What is to be called for a unit."""
        return "adopt" if unit_id in self._to_adopt else "do"

    def are_trusted(self, unit_ids: Iterable[int]) -> bool:
        """Whether no actor has died over any of them."""
        return self._suspects.isdisjoint(unit_ids)

    def needs_copy(self, unit_id: int) -> bool:
        """Whether a second actor could help the one that is at a unit; with one that failed too often it ends."""
        return (
            unit_id not in self.done
            and unit_id not in self._to_adopt
            and len(self._holders[unit_id]) == 1
            and not self._failed_too_often(unit_id)
        )

    # What happens to one.

    def hold(self, unit_id: int, actor_id: int) -> None:
        """An actor is given it."""
        holders = self._holders.setdefault(unit_id, set())
        if holders:
            self.doubtful.add(unit_id)
        holders.add(actor_id)

    def release(self, unit_id: int, actor_id: int) -> None:
        """An actor is at it no more; to be followed by what came of it."""
        self._holders[unit_id].remove(actor_id)
        if not self._holders[unit_id]:
            del self._holders[unit_id]

    def finish(self, unit_id: int, actor_id: int, result: R, seconds: float) -> None:
        """It has been done by an actor; the first one counts."""
        if unit_id not in self.done:
            self.done[unit_id] = result
            self.num_left -= 1
            self._tell(UnitDone(actor_id, unit_id, result, seconds))
        elif self.done[unit_id].digest == result.digest:
            self.doubtful.discard(unit_id)

    def fail(self, unit_id: int, actor_id: int, reason: str) -> None:
        """An actor has failed it."""
        if unit_id not in self.done:
            self._reasons.setdefault(unit_id, []).append(reason)
            self._tell(UnitFailed(actor_id, unit_id, reason))
            self.put_back(unit_id)

    def refuse(self, unit_id: int, reason: str) -> None:
        """What is there of it cannot be adopted."""
        self._to_adopt.remove(unit_id)
        self._tell(UnitUnusable(unit_id, reason))
        self.put_back(unit_id)

    def suspect(self, unit_id: int) -> Collection[int]:
        """An actor has died over it; returns those that are at it too."""
        self._suspects.add(unit_id)
        return self._holders.get(unit_id, ())

    def put_back(self, unit_id: int) -> None:
        """Queue it again, or set it aside; where it is done, or with another actor, that decides."""
        if unit_id in self.done or unit_id in self._holders:
            return
        if self._failed_too_often(unit_id):
            self.set_aside[unit_id] = self._reasons[unit_id][-1]
            self.num_left -= 1
            self._tell(UnitSetAside(unit_id, self.set_aside[unit_id]))
        else:
            (self.suspects_queue if unit_id in self._suspects else self.queue).append(unit_id)
            self._tell(UnitPutBack(unit_id))

    def _failed_too_often(self, unit_id: int) -> bool:
        return len(self._reasons.get(unit_id, ())) >= self._max_failures
