"""Events of a run: what happened and when, one JSON object a line, in the run's folder; written by the driver alone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_json

from sio_ray.progress import console
from sio_ray.reading import parse_json_object, reason_of
from sio_ray.redaction import redact_values
from sio_ray.watching.context import current

#: In the folder of a run, beside those of its stages.
EVENTS_NAME = "events.jsonl"

Level = Literal["info", "warning", "error"]

#: Level to what Python's logging calls it.
LEVELS: dict[str, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

#: A line that is longer is not one of ours.
_MAX_LINE_BYTES = 2**20

_logger = logging.getLogger("sio_ray")
_logger.addHandler(logging.NullHandler())  # whoever wants events in a log of their own adds a handler

_told_of: set[Path] = set()

#: Threads of this process write one after the other.
_one_writes = threading.Lock()


def tell(event: str, message: str = "", *, level: Level = "info", **fields: Any) -> None:
    """Write an event down, with what the context is labelled by; without a run that is bound, to Python's log alone.

    An event that cannot be written ends no work: that is said once.

    Args:
        event: what happened, in one word.
        message: the same for people, if the fields do not say it all.
        level: how much it matters.
        **fields: what else to say; those that are None are left out.
    """
    context = current()
    said = {**context.labels, **fields, "message": message or None}
    record = redact_values({name: value for name, value in said.items() if value is not None})
    if _logger.isEnabledFor(LEVELS[level]):
        words = [event, *(f"{name}={value}" for name, value in record.items())]
        _logger.log(LEVELS[level], " ".join(words), extra={"sio_ray": {"event": event, **record}})
    if context.folder is None:
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = to_json({"time": now, "level": level, "event": event, **record}, inf_nan_mode="null")
    path = context.folder / EVENTS_NAME
    try:
        _append(path, line + b"\n")
    except OSError as error:
        if path not in _told_of:
            _told_of.add(path)
            console.print(f"  events cannot be written to {path} ({reason_of(error)})", markup=False, soft_wrap=True)
    if context.on_stderr:
        console.print(line.decode(), markup=False, soft_wrap=True)


def _append(path: Path, line: bytes) -> None:
    """Add a line by one write, so that a kill tears nothing, and lines of two drivers do not mix.

    While another driver writes, its line may look torn: that leaves an empty line, which readers pass over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with _one_writes:
            size = os.fstat(descriptor).st_size
            # By a full disk, or the machine going away.
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" + line if is_torn else line)
    finally:
        os.close(descriptor)


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run in their order; a line that is no event is passed over.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        file = (folder / EVENTS_NAME).open("rb")
    except FileNotFoundError:
        return
    with file:
        while line := file.readline(_MAX_LINE_BYTES):
            try:
                found = parse_json_object(line)
            except ValueError:
                continue
            if found.get("level") in LEVELS and all(isinstance(found.get(name), str) for name in ("time", "event")):
                yield found


def problems_of(folder: Path) -> list[dict[str, Any]]:
    """The warnings and errors among the events of a run; none where they cannot be read."""
    try:
        return [event for event in read_events(folder) if event["level"] != "info"]
    except OSError:
        return []
