"""What a schedule orders of its actors, and what news it tells of them and of its units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar


class Result(Protocol):
    """What is told of a unit that is done."""

    @property
    def digest(self) -> str:
        """The same for the same bytes written: whether it matters which of two actors that did a unit was the last."""


R = TypeVar("R", bound=Result)

#: Do a unit, or adopt one, which is to describe what is there already.
Method = Literal["do", "adopt"]


@dataclass(frozen=True, slots=True)
class Start:
    """An order: start this actor, a number not used before, and let it open."""

    actor_id: int


@dataclass(frozen=True, slots=True)
class Call:
    """An order: let this actor do a unit, or adopt one."""

    actor_id: int
    method: Method
    unit_id: int


@dataclass(frozen=True, slots=True)
class Kill:
    """An order: end this actor; calls that it has not answered by then end too."""

    actor_id: int


Order = Start | Call | Kill


@dataclass(frozen=True, slots=True)
class ActorOpened:
    """News: an actor has made its worker, and so has a place."""

    actor_id: int


@dataclass(frozen=True, slots=True)
class ActorEnded:
    """News: an actor has died, or is to be killed, for this reason; one that is recycled did nothing wrong."""

    actor_id: int
    reason: str
    is_recycled: bool = False


@dataclass(frozen=True, slots=True)
class UnitDone(Generic[R]):
    """News: a unit is done, in so many seconds of an actor; told once of every unit, by whoever was first."""

    actor_id: int
    unit_id: int
    result: R
    seconds: float


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """News: a unit has failed; it is tried again unless it is set aside."""

    actor_id: int
    unit_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnitPutBack:
    """News: a unit that failed, could not be adopted or lost its actor is queued again."""

    unit_id: int


@dataclass(frozen=True, slots=True)
class UnitUnusable:
    """News: what is there of a unit cannot be adopted; it is done anew."""

    unit_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnitSetAside:
    """News: a unit has failed too often, the last time for this reason."""

    unit_id: int
    reason: str


News = ActorOpened | ActorEnded | UnitDone[R] | UnitFailed | UnitPutBack | UnitUnusable | UnitSetAside
