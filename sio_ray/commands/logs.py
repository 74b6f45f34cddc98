"""`sio-ray logs`: what happened in a run, by the events in its folder."""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from sio_ray.config import STAGES
from sio_ray.errors import ConfigError, StageError
from sio_ray.progress import console, plain
from sio_ray.reading import reason_of
from sio_ray.watching.events import EVENTS_NAME, LEVELS, read_events

_STYLES = {"info": "", "warning": "yellow", "error": "bold red"}

#: Fields that begin a line, and those that all events of a run share.
_SAID_FIRST = ("time", "level", "event", "stage", "run", "message")


def logs(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A run's folder.")],
    stage: Annotated[str | None, typer.Option("--stage", help="Of this stage alone.")] = None,
    level: Annotated[str, typer.Option("--level", help="From this level on: info, warning or error.")] = "info",
    last: Annotated[int | None, typer.Option("--last", min=1, help="So many alone, from the end.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print them as JSON, one a line, on standard output.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Say what happened in a run, by its output folder alone: stages, shards, reports, trials, and what failed."""
    if level not in LEVELS:
        raise ConfigError("--level", f"one of {', '.join(LEVELS)}", level, "leave it out for all of them")
    if stage is not None and stage not in STAGES:
        raise ConfigError("--stage", f"one of {', '.join(STAGES)}", stage, "leave it out for all of them")
    if not (out / EVENTS_NAME).is_file():
        raise StageError(f"there is no {out / EVENTS_NAME}; give the output folder of a run, such as runs/digits.")
    try:
        found = deque(
            (
                event
                for event in read_events(out)
                if LEVELS[event["level"]] >= LEVELS[level] and stage in (None, event.get("stage"))
            ),
            maxlen=last,
        )
    except OSError as error:
        raise StageError(f"{out / EVENTS_NAME} cannot be read ({reason_of(error)}).") from error
    for event in found:
        if as_json:
            sys.stdout.write(json.dumps(event) + "\n")
        else:
            console.print(Text(line_of(event), style=_STYLES[event["level"]]), soft_wrap=True)


def line_of(event: dict[str, Any]) -> str:
    """An event in one line: when (UTC), where, what, and in which words."""
    fields = [f"{name}={_short(value)}" for name, value in event.items() if name not in _SAID_FIRST]
    words = [str(event["time"])[:19].replace("T", " "), str(event.get("stage", "")), event["event"], *fields]
    return plain(" ".join(word for word in words if word) + (f": {event['message']}" if event.get("message") else ""))


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, dict) else str(value)
