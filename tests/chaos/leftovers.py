"""What work that was disturbed may not leave behind: temporary files and processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import psutil


def descendants(pid: int | None = None) -> set[psutil.Process]:
    """All processes below one, or below this one; to be asked while it lives, as orphans have another parent."""
    return set(psutil.Process(pid).children(recursive=True))


def assert_gone(processes: Iterable[psutil.Process], within_s: float = 90.0) -> None:
    """None of these processes is left; a node whose driver was killed takes a moment to notice."""
    _, alive = psutil.wait_procs(list(processes), timeout=within_s)
    left = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"orphans: {[(process.pid, process.cmdline()) for process in left]}"


def assert_no_actor_at_work(name: str, within_s: float = 30.0) -> None:
    """No process of this test's cluster still runs actors of a class; Ray keeps idle ones for other work."""
    deadline_s = time.monotonic() + within_s
    while left := [process for process in descendants() if name in _title(process)]:
        assert time.monotonic() < deadline_s, f"actors are left: {left}"
        time.sleep(0.1)


def _title(process: psutil.Process) -> str:
    try:
        title = (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""
    return title if title.startswith("ray::") else ""


def temporary_files(folder: Path) -> list[str]:
    """Half-written files, anywhere in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.partial"))
