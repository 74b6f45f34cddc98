"""`sio-ray submit`: run a stage, or all, as a job of a Ray cluster, and follow it."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sio_ray.config import STAGES, Config, load_config
from sio_ray.errors import ConfigError, JobError, did_you_mean
from sio_ray.jobs.client import connect, find_address, one_line_errors, submitted_jobs
from sio_ray.jobs.follow import ReaderGoneError, exit_code, follow
from sio_ray.jobs.ids import check_id, new_id, next_attempt
from sio_ray.jobs.parcel import Parcel, pack, pip_requirements
from sio_ray.jobs.travel import check_travels
from sio_ray.progress import console
from sio_ray.redaction import redact

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

#: Of the command where it stopped following, and the job goes on.
EXIT_DETACHED = 130

#: What a head says whose agent is not up yet, how long that may last, and the time between two attempts.
_NO_AGENT, _AGENT_S, _PAUSE_S = "No available agent", 120.0, 2.0

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

AddressOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Of the dashboard, http://HEAD:8265."),
]


def submit(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="One, or `run` for all.")],
    config: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset or YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.FIELD=VALUE]...", help="Fields to change."),
    ] = None,
    address: AddressOption = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id and leave.")] = False,
    job_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Of the job; given again, it goes on.")
    ] = None,
    pip: Annotated[bool, typer.Option("--pip", help="Let Ray install what the package needs.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME[=VALUE]", help="Variable of the job; may be repeated."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Run a stage, or all, as a job of a Ray cluster, and follow its log."""
    if stage not in (*STAGES, "run"):
        rule = f"among {', '.join(STAGES)} and run"
        raise ConfigError("STAGE", rule, stage, did_you_mean(stage, (*STAGES, "run")))
    wanted_id = None if job_id is None else check_id(job_id)
    variables = read_variables(env or ())
    loaded = load_config(config, overrides or ())
    where = find_address(address)
    check_travels(loaded)
    runtime_env: dict[str, object] = {"env_vars": variables, **({"pip": pip_requirements()} if pip else {})}
    client = connect(where)
    _check_settings(stage, loaded)
    with tempfile.TemporaryDirectory() as folder:
        parcel = pack(stage, loaded, Path(folder) / "parcel")
        with one_line_errors(where):
            submitted = _submit(client, parcel, runtime_env, wanted_id or new_id(stage, loaded.name), where)
    if no_wait:
        sys.stdout.write(f"{submitted}\n")
        return
    follow_to_end(client, submitted, where)


def _check_settings(stage: str, config: Config) -> None:
    """Refuse here what would fail there, as far as the config alone tells."""
    from sio_ray.stages.layout import run_order  # takes seconds
    from sio_ray.stages.preflight import check_settings

    check_settings(config, run_order(config) if stage == "run" else [stage])


def read_variables(given: Sequence[str]) -> dict[str, str]:
    """Environment variables by name: as they are set here, or with a value of their own; no message shows one.

    Raises:
        ConfigError: no name of a variable, or one that is not set here.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise ConfigError("--env", "NAME or NAME=VALUE", name, "give the name of an environment variable")
        if not equals:
            if name not in os.environ:
                raise ConfigError("--env", "a variable that is set here, or NAME=VALUE", name, f"export {name} first")
            value = os.environ[name]
        found[name] = value
    return found


def _submit(
    client: JobSubmissionClient, parcel: Parcel, runtime_env: dict[str, object], wanted_id: str, address: str
) -> str:
    """Hand over a parcel, or find the job that it is already."""
    known = {details.submission_id: details for details in submitted_jobs(client)}
    job_id = next_attempt(wanted_id, {each: str(details.status) for each, details in known.items()})
    if job_id in known:
        details = known[job_id]
        if (details.metadata or {}).get("config_sha256") != parcel.metadata["config_sha256"]:
            raise JobError(
                f"job {job_id} {_HAS[str(details.status)]} with another stage, config or space; "
                "give another --id, or the same config."
            )
        console.print(f"job {job_id} {_HAS[str(details.status)]} already, and is not submitted again", soft_wrap=True)
        return job_id
    _hand_over(client, parcel, runtime_env, job_id)
    console.print(f"submitted [bold]{escape(job_id)}[/bold] to {escape(redact(address))}", soft_wrap=True)
    return job_id


def _hand_over(client: JobSubmissionClient, parcel: Parcel, runtime_env: dict[str, object], job_id: str) -> None:
    """Submit, and again while a cluster that has just begun has nobody yet who starts jobs."""
    deadline_s = time.monotonic() + _AGENT_S
    while True:
        try:
            client.submit_job(
                entrypoint=parcel.entrypoint,
                submission_id=job_id,
                runtime_env={**runtime_env, "working_dir": str(parcel.folder)},
                metadata=parcel.metadata,
            )
        except RuntimeError as error:
            if _NO_AGENT not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


#: A job's state as a verb.
_HAS = {"PENDING": "waits", "RUNNING": "runs", "SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "was stopped"}


def follow_to_end(client: JobSubmissionClient, job_id: str, address: str) -> None:
    """Write a job's log on standard output until it is over, say how it ended, and leave with its exit code.

    Ctrl-C, or a reader of standard output that goes away, leaves the job alone.

    Raises:
        Exit: unless it succeeded.
    """
    try:
        with one_line_errors(address):
            details = follow(client, job_id, _write)
    except (KeyboardInterrupt, ReaderGoneError):
        console.print(f"detached; job {job_id} goes on.", soft_wrap=True)
        for what, command in (("follow", f"logs {job_id} --follow"), ("stop", f"stop {job_id}")):
            line = f"sio-ray jobs {command} --address {shlex.quote(redact(address))}"
            console.print(f"  {what} it: {line}", soft_wrap=True, markup=False)
        raise typer.Exit(EXIT_DETACHED) from None
    _tell_end(details, exit_code(details))
    if code := exit_code(details):
        raise typer.Exit(code)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered has to go somewhere when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGoneError from error


def _tell_end(details: JobDetails, code: int) -> None:
    took_s = ((details.end_time or 0) - (details.start_time or 0)) / 1000
    job_id, again = escape(str(details.submission_id)), "submit the same again, and it continues: what is done is kept."
    if not code:
        console.print(f"[green]succeeded[/green]: {job_id} took {took_s:,.0f} s", soft_wrap=True)
    elif details.status == "STOPPED":
        console.print(f"[yellow]stopped[/yellow]: {job_id}; {again}", soft_wrap=True)
    elif details.driver_exit_code is None:
        console.print(f"[bold red]failed[/bold red]: {job_id} never ran a driver:", soft_wrap=True)
        console.print(details.message, markup=False, soft_wrap=True)
    else:
        end = f"its driver ended with exit code {code} after {took_s:,.0f} s"
        console.print(
            f"[bold red]failed[/bold red]: {job_id}, {end}; mend what its log says and {again}", soft_wrap=True
        )
