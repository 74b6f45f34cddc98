"""Runs jobs in threads, a few at a time, so that the driver's main thread stays free for Ctrl-C."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def side_by_side(jobs: Sequence[Callable[[], T]], limit: int) -> list[T]:
    """Run jobs, at most `limit` at once.

    Ray Train handles Ctrl-C by itself when it runs in the main thread, and would end without an error. In a thread it
    does not, and the threads are daemons, so Ctrl-C ends the program at once and the next run continues.

    Returns:
        What the jobs returned, in their order.

    Raises:
        BaseException: the first that a job raised; jobs that run by then are left to end, others do not start.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(jobs)):
        waiting.put(index)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results[index] = jobs[index]()
            except BaseException as error:  # noqa: BLE001 - handed on to the main thread, whatever it is
                errors.append(error)

    threads = [
        threading.Thread(target=copy_context().run, args=[work], daemon=True) for _ in range(min(limit, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(timeout=0.1)
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(jobs))]
