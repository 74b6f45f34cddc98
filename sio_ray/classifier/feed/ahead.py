"""One batch ahead: a thread makes what the next step will ask for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class OneAhead(Generic[T]):
    """Makes things by step, in one thread, so that what it makes ahead never meets what is asked for now.

    Args:
        make: called with a step.
        num_steps: nothing is made ahead from here on; None for no end.
    """

    def __init__(self, make: Callable[[int], T], num_steps: int | None = None) -> None:
        self._make, self._num_steps = make, num_steps
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """What `make` gives for a step, and begin with the next."""
        if self._next is None or self._next[0] != step:
            self._next = (step, self._thread.submit(self._make, step))
        made = self._next[1].result()
        self._next = None
        if self._num_steps is None or step + 1 < self._num_steps:
            self._next = (step + 1, self._thread.submit(self._make, step + 1))
        return made

    def close(self) -> None:
        """Wait for what is being made, and make no more."""
        self._thread.shutdown(cancel_futures=True)
