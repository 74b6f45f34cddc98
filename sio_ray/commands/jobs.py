"""`sio-ray jobs`: the jobs of a Ray cluster, their logs, and their end."""

from __future__ import annotations

import json as json_format
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sio_ray.commands.submit import AddressOption, follow_to_end
from sio_ray.errors import JobError
from sio_ray.jobs.client import connect, find_address, find_job, one_line_errors, submitted_jobs
from sio_ray.progress import console, plain
from sio_ray.redaction import redact_values

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

app = typer.Typer(help="The jobs of a Ray cluster, their logs, and their end.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Of a job, as `sio-ray jobs ls` shows it.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]

_STYLES = {"SUCCEEDED": "green", "RUNNING": "bold", "PENDING": "yellow", "STOPPED": "yellow", "FAILED": "red"}

#: Columns that a narrow terminal does not fold, and the part of a time that is shown.
_WHOLE = ("state", "started (UTC)", "took")
_TO_THE_MINUTE = len("2026-11-28T14:18")

#: Of a table that goes to no terminal: ids stay whole.
_PIPE_WIDTH = 160

#: Ray kills a driver that has not ended 3 s after it was asked to; a busy cluster needs longer to say so.
_STOP_S = 60.0


@app.command("ls", epilog="Example:  sio-ray jobs ls --address http://HEAD:8265")
def list_jobs(address: AddressOption = None, json: Json = False, debug: Debug = False) -> None:
    """List the jobs that were submitted, the newest first."""
    where = find_address(address)
    client = connect(where)
    with one_line_errors(where):
        rows = [redact_values(_row(details)) for details in submitted_jobs(client)]
    if json:
        sys.stdout.write(json_format.dumps(rows, indent=1) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("id", "stage", "config", "state", "started (UTC)", "took"):
        table.add_column(name, justify="right" if name == "took" else "left", overflow="fold", no_wrap=name in _WHOLE)
    for row in rows:
        cells = [plain(row[name] or "") for name in ("id", "stage", "config", "state", "started")]
        took = "" if row["took_s"] is None else str(timedelta(seconds=round(row["took_s"])))
        state = Text(cells[3], style=_STYLES.get(cells[3], ""))
        started = Text(cells[4][:_TO_THE_MINUTE].replace("T", " "))
        table.add_row(*map(Text, cells[:3]), state, started, Text(took))
    out = Console(highlight=False)
    out.print(table, width=out.width if out.is_terminal else _PIPE_WIDTH)


@app.command(epilog="Example:  sio-ray jobs logs ID --follow --address http://HEAD:8265")
def logs(
    job_id: IdArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends, with its exit code.")] = False,
    address: AddressOption = None,
    debug: Debug = False,
) -> None:
    """Print the log of a job."""
    where = find_address(address)
    client = connect(where)
    with one_line_errors(where):
        find_job(client, job_id)
        text = "" if follow else client.get_job_logs(job_id)
    if follow:
        follow_to_end(client, job_id, where)
    sys.stdout.write(text or "")


@app.command(epilog="Example:  sio-ray jobs stop ID --address http://HEAD:8265")
def stop(job_id: IdArgument, address: AddressOption = None, debug: Debug = False) -> None:
    """Stop a job, and wait until it is; submitted again, it continues."""
    where = find_address(address)
    client = connect(where)
    with one_line_errors(where):
        details = find_job(client, job_id)
        if details.status.is_terminal():
            console.print(Text(f"job {job_id} was over already: {details.status}"), soft_wrap=True)
            return
        client.stop_job(job_id)
        deadline_s = time.monotonic() + _STOP_S
        while not (details := client.get_job_info(job_id)).status.is_terminal():
            if time.monotonic() > deadline_s:
                raise JobError(f"job {job_id} was told to stop and still ends; see `sio-ray jobs ls` in a while.")
            time.sleep(0.5)
    if details.status == "STOPPED":
        end = "is stopped; what it did is kept, and the same submitted again continues"
    else:
        end = f"ended before it was stopped: {details.status}"
    console.print(Text(f"job {job_id} {end}"), soft_wrap=True)


def _row(details: JobDetails) -> dict[str, Any]:
    """A job in JSON values; what its environment holds is not among them."""
    about = details.metadata or {}
    start_s = None if not details.start_time else details.start_time / 1000
    end_s = details.end_time / 1000 if details.end_time else None if details.status.is_terminal() else time.time()
    return {
        "id": details.submission_id,
        "stage": about.get("stage"),
        "config": about.get("config"),
        "state": str(details.status),
        "started": None if start_s is None else datetime.fromtimestamp(start_s, UTC).isoformat(timespec="seconds"),
        "took_s": None if start_s is None or end_s is None else max(0.0, round(end_s - start_s, 1)),
        "exit_code": details.driver_exit_code,
        "version": about.get("sio_ray"),
        "entrypoint": details.entrypoint,
    }
