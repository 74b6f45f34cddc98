"""One driver at a time in a stage's folder, as far as its file system can tell."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sio_ray.errors import StageError

#: There while a driver works in the folder, or where one was killed; says which.
LOCK_NAME = "driver.lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder while a block works in it.

    The lock is the system's, which lets go of it when the process ends, however it ends. It is the process's own: its
    children do not have it, and its threads are not kept from each other. Where the folder cannot be written, or its
    file system has no locks, nothing is held; the first is for the block to say.

    Raises:
        StageError: another process holds it, on this machine or, on a shared disk with locks, on another one.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _hold(folder)
    if descriptor is None:
        yield
        return
    try:
        yield
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)
        os.close(descriptor)


def _hold(folder: Path) -> int:
    """The descriptor of the folder's lock, which is held; closing it lets go."""
    while True:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, folder)
        except BaseException:
            os.close(descriptor)
            raise
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # of a file that the holder before has deleted since it was opened


def _lock(descriptor: int, folder: Path) -> None:
    with contextlib.suppress(OSError):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
            raise StageError(
                f"{folder} is being worked in by {holder}; wait until that has finished, or end it, then run the same "
                "command again."
            ) from None
        os.ftruncate(descriptor, 0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)
