"""A folder in which another driver works is refused; a driver that was killed holds nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sio_ray.config import load_config
from sio_ray.errors import ResourceError, StageError
from sio_ray.stages.lock import LOCK_NAME, alone_in
from sio_ray.stages.record import run_once

CONFIG = load_config("digits")

#: Holds a folder until it is told to let go.
HOLDER = """
import sys
from pathlib import Path
from sio_ray.stages.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prepare-0123"


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another driver, which works in the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def run(folder: Path, fail: Exception | None = None) -> Any:
    def work(_: Path) -> dict[str, Any]:
        assert (folder / LOCK_NAME).exists()
        if fail is not None:
            raise fail
        return {}

    return run_once("prepare", folder, {}, CONFIG, work)


def test_a_folder_in_which_another_driver_works_is_refused_with_who_it_is(
    folder: Path, other: subprocess.Popen[str]
) -> None:
    who = rf"process {other.pid} on {re.escape(socket.gethostname())} since 20\S+\+00:00"
    for _ in range(2):
        with pytest.raises(StageError) as error:
            run(folder)
        assert re.fullmatch(
            rf"{folder} is being worked in by {who}; wait until that has finished, or end it, then run the same "
            r"command again\.",
            str(error.value),
        )
    other.communicate("")
    run(folder)
    assert [path.name for path in folder.iterdir()] == ["stage.json"]


def test_a_driver_that_was_killed_holds_nothing(folder: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (folder / LOCK_NAME).exists()
    run(folder)
    assert [path.name for path in folder.iterdir()] == ["stage.json"]


def test_what_another_driver_has_finished_in_the_meantime_is_reused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockf = fcntl.lockf

    def finish_first(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "lockf", lockf)
        run(folder)
        lockf(*arguments)

    monkeypatch.setattr(fcntl, "lockf", finish_first)
    assert run(folder).reused


def test_one_process_works_in_several_folders_and_again_after_a_failure(folder: Path) -> None:
    with alone_in(folder.with_name("outer")):
        with pytest.raises(ResourceError):
            run(folder, ResourceError("full"))
        assert not folder.exists()
        run(folder)
    assert not (folder.with_name("outer") / LOCK_NAME).exists()


def test_a_file_system_without_locks_is_worked_in_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    assert not run(folder).reused


def test_a_lock_that_the_holder_before_has_just_deleted_is_taken_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def lock(descriptor: int, locked: Path) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            (locked / LOCK_NAME).unlink()

    monkeypatch.setattr("sio_ray.stages.lock._lock", lock)
    with alone_in(folder):
        assert len(calls) == 2
        assert (folder / LOCK_NAME).exists()
