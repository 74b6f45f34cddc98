"""Where trials find their work: an actor that holds references, which Tune would try to write down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray


class Shelf:
    """Key to a reference of a trial's work, which the actor never opens; so it needs no library and little memory."""

    def __init__(self) -> None:
        self._works: dict[str, list[Any]] = {}

    def put(self, key: str, work: list[Any]) -> None:
        """Lay work down for a trial.

        Args:
            key: of the trial.
            work: one reference; in a list, as Ray would fetch it otherwise.
        """
        self._works[key] = work

    def take(self, key: str) -> list[Any]:
        """The work of a trial; it stays, as a trial may begin again."""
        return self._works[key]

    def clear(self, key: str) -> None:
        """Forget the work of a trial that has ended, and with it references to sets that no other uses."""
        self._works.pop(key, None)


@contextmanager
def open_shelf() -> Iterator[Any]:
    """The shelf of a search, for as long as that plays."""
    shelf = ray.remote(num_cpus=0)(Shelf).remote()
    try:
        yield shelf
    finally:
        ray.kill(shelf)


def lay_down(shelf: Any, key: str, work: Any) -> None:
    """Put a trial's work on the shelf."""
    ray.get(shelf.put.remote(key, [ray.put(work)]))


def pick_up(shelf: Any, key: str) -> Any:
    """A trial's work, in its process."""
    (reference,) = ray.get(shelf.take.remote(key))
    return ray.get(reference)
