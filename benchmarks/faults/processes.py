"""Finds the processes of a Ray cluster on this machine, and those that outlive their work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

#: So long a process may take to notice that nobody needs it any more.
_MAX_GOODBYE_S = 60.0

#: Processes that Ray has whether anything works or not: those that wait for work, a node's agents, and an actor that
#: Ray Train starts once for the whole cluster.
_RAY_S_OWN = ("IDLE", "DashboardAgent", "RuntimeEnvAgent", "_AutoscalingCoordinatorActor")


def raylet_of(node: object) -> psutil.Process:
    """The process of a node that starts its workers."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)  # type: ignore[attr-defined]


def workers_of(node: object, name: str = "") -> list[psutil.Process]:
    """Processes of a node that run an actor or task of this name, or any."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in raylet_of(node).children(recursive=True) if _is_at_work(child, name)]
    return []


def all_workers(cluster: Cluster, name: str = "") -> list[psutil.Process]:
    """Likewise, of all nodes."""
    return [process for node in cluster.list_all_nodes() for process in workers_of(node, name)]


def _is_at_work(process: psutil.Process, name: str = "") -> bool:
    title = _title(process)
    return title.startswith("ray::") and not any(word in title for word in _RAY_S_OWN) and name in title


def _title(process: psutil.Process) -> str:
    """What a process calls itself; empty if it is no more."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else (process.cmdline() or [process.name()])[0]
    except psutil.Error:
        return ""


def kill(process: psutil.Process) -> bool:
    """SIGKILL; whether there was something to kill."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


class Census:
    """All workers that were ever seen, so that one that outlives its work, or its node, is found."""

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()

    def take(self, cluster: Cluster) -> None:
        """Look who is there."""
        self._seen.update(all_workers(cluster))

    def orphans(self, cluster: Cluster) -> list[str]:
        """Those that are at work, or alive without a node, though all work has ended."""
        deadline_s = time.monotonic() + _MAX_GOODBYE_S
        while (found := self._at_work(cluster)) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        return found

    def _at_work(self, cluster: Cluster) -> list[str]:
        self.take(cluster)
        return [f"{process.pid} {_title(process)}" for process in self._seen if _is_at_work(process)]


def start_driver(cluster: Cluster, command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Start a Python program as a driver on the cluster; its words go to the end of a file."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env=os.environ | {"RAY_ADDRESS": cluster.address},
            start_new_session=True,
        )


def last_words(log: Path) -> str:
    """The end of what drivers said, in one line."""
    return " ".join(log.read_text(errors="replace").split())[-600:]
