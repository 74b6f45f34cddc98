"""What `sio-ray status` prints: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from sio_ray.commands.logs import line_of
from sio_ray.commands.status_progress import Progress
from sio_ray.progress import console, plain
from sio_ray.watching.events import problems_of

_STYLES = {"done": "green", "unfinished": "yellow", "not begun": "dim", "unreadable": "red"}


def status(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A run's folder, a folder of runs, or a generated set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Say how far a run is, by its output folder alone: what is done, what is left, and what continues it."""
    from sio_ray.commands.status import RunState, status_of

    found = status_of(out)
    if as_json:
        sys.stdout.write(json.dumps([asdict(run) | {"is_done": run.is_done} for run in found], indent=1) + "\n")
        return

    def show(run: RunState) -> None:
        console.print(Text(plain(run.folder), style="bold", overflow="fold"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("stage", "state", "how far", "seconds", "last change (UTC)"):
            table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
        for state in run.stages:
            label = plain(state.label) + (" (of another config)" if state.is_current is False else "")
            table.add_row(
                Text(label),
                Text(state.state, style=_STYLES[state.state]),
                Text(plain(_how_far(state.progress))),
                "" if state.wall_s is None else f"{state.wall_s:,.1f}",
                plain((state.finished or state.modified or "").removesuffix("+00:00").replace("T", " ")),
            )
        console.print(table)
        if run.command is not None:
            console.print(Text(f"continue with: {plain(run.command)}", overflow="fold"), soft_wrap=True)
        if run.config_in is not None:
            console.print(
                Text(f"  the file is the one it was begun with; {run.config_in} holds it, as `config` of its JSON"),
                soft_wrap=True,
            )
        if run.command is None and not run.is_done:
            console.print(Text("run the command that began it again to continue"))
        if run.kind == "run" and not run.is_done and (problems := problems_of(Path(run.folder))):
            what = "1 warning or error" if len(problems) == 1 else f"{len(problems):,} warnings and errors"
            told = f"{what} (sio-ray logs {run.folder} --level warning), the last:"
            console.print(Text(f"{plain(told)}\n  {line_of(problems[-1])}"), soft_wrap=True)

    for run in found:
        show(run)


def _how_far(found: Progress) -> str:
    parts = []
    if found.done is not None:
        total = "" if found.total is None else f" of {found.total:,}"
        parts.append(f"{found.done:,}{total} {found.unit}")
    return "; ".join([*parts, found.note] if found.note else parts)
