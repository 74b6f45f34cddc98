"""The tasks of all networks on a cluster: a few networks at a time, and no more tasks than there are places."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from sio_ray.cluster import our_cause
from sio_ray.errors import EvaluationError
from sio_ray.pool.resources import PoolSize
from sio_ray.progress import CountProgress

#: Networks whose outputs are shared at one time: while the slow tasks of one end, the next one begins.
_NETWORKS_AT_ONCE = 2


@dataclass(frozen=True)
class Job:
    """The tasks of one network.

    Attributes:
        network: its name.
        prepare: shares its outputs, and gives name of a task to what submits it; called when its turn comes.
    """

    network: str
    prepare: Callable[[], Mapping[str, Callable[[], Any]]]


def run_jobs(jobs: Iterator[Job], size: PoolSize, progress: CountProgress) -> None:
    """Run all tasks; each leaves its result itself.

    A task that waits for its inputs gives its place to another one, so that all at once would start a process each.

    Args:
        jobs: of the networks.
        size: what a task asks for.
        progress: counts tasks.

    Raises:
        SioRayError: what a task raised of ours.
        EvaluationError: a task failed otherwise.
    """
    waiting: collections.deque[tuple[str, str, Callable[[], Any]]] = collections.deque()
    running: dict[Any, tuple[str, str]] = {}
    while True:
        while len({network for network, *_ in (*waiting, *running.values())}) < _NETWORKS_AT_ONCE:
            job = next(jobs, None)
            if job is None:
                break
            waiting.extend((job.network, name, submit) for name, submit in job.prepare().items())
        while waiting and len(running) < size.wanted():
            network, name, submit = waiting.popleft()
            running[submit()] = (network, name)
        if not running:
            return
        (ref,), _ = ray.wait(list(running), num_returns=1)
        network, name = running.pop(ref)
        _check(ref, f"{name} of {network}")
        progress.advance(1, note=name)


def _check(ref: Any, what: str) -> None:
    try:
        ray.get(ref)
    except ray.exceptions.RayError as error:  # an exception in the task, or the death of its worker
        if ours := our_cause(error):
            raise ours from error
        lines = str(getattr(error, "cause", None) or error).splitlines() or [""]
        raise EvaluationError(
            f"{what} failed ({type(error).__name__}: {lines[0].rstrip('.')}); what is done is kept: run the same "
            "command again, with --debug for the whole error."
        ) from error
