"""The record of a finished stage: written last, it says what was done, with what, and how long it took."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.markup import escape

from sio_ray.config import Config
from sio_ray.errors import StageError
from sio_ray.imageset.storage import Folder
from sio_ray.progress import console
from sio_ray.provenance import git_commit, machine, versions
from sio_ray.reading import parse_json, reason_of
from sio_ray.redaction import redact_values
from sio_ray.stages.lock import LOCK_NAME, alone_in
from sio_ray.watching.context import bound_to_run
from sio_ray.watching.events import tell

RECORD_NAME = "stage.json"

#: There until the record is: what a stage began with, for those who look at the folder of one that was killed.
BEGUN_NAME = "begun_stage.json"


class StageRecord(BaseModel):
    """What a finished stage leaves in its folder.

    Attributes:
        stage: its name.
        identity: all values that decide its output; their fingerprint is in the folder's name.
        config: the whole config of the run that made it.
        versions: package to version.
        machine: in words.
        git_commit: of the code, if it ran from a checkout.
        finished: date and time, UTC.
        wall_s: seconds that the work took, over all runs of it that were interrupted.
        outputs: files that must be there for the record to count, relative to the folder.
        result: the stage's own numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    identity: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    machine: str
    git_commit: str | None
    finished: str
    wall_s: float
    outputs: tuple[str, ...] = ()
    result: dict[str, Any]


class BegunStage(BaseModel):
    """What a stage that has not finished leaves in its folder.

    Attributes:
        stage: its name.
        config: the whole config of the run that is making it.
        begun: date and time of the last attempt, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    config: dict[str, Any]
    begun: str


class Outcome(BaseModel):
    """What a stage returns, and what `--json` prints.

    Attributes:
        stage: its name.
        output: its folder or file.
        reused: true if all of it was there already.
        wall_s: seconds that the work took, when it was done.
        result: the stage's own numbers.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    output: Path
    reused: bool
    wall_s: float
    result: dict[str, Any]


def read_record(folder: Path) -> StageRecord | None:
    """The record in a folder; None if the stage has not finished there, or something that it wrote is gone.

    Raises:
        StageError: the record is corrupt.
    """
    try:
        record = StageRecord.model_validate(parse_json((folder / RECORD_NAME).read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        raise StageError(
            f"{folder / RECORD_NAME} cannot be read ({reason_of(error)}); delete {folder} to run that stage again."
        ) from error
    return record if all((folder / name).exists() for name in record.outputs) else None


def forget(folder: Path) -> None:
    """Delete the record in a folder, if there is one: what it says is no longer so."""
    (folder / RECORD_NAME).unlink(missing_ok=True)


def require(folder: Path, stage: str, needed_by: str) -> StageRecord:
    """The record of an earlier stage.

    Raises:
        StageError: that stage has not finished for this config.
    """
    record = read_record(folder)
    if record is None:
        raise StageError(
            f"{needed_by} needs the output of {stage} for this config ({_relative(folder)} is missing or unfinished); "
            f"run `sio-ray {stage}` with the same config, or `sio-ray run` for all stages."
        )
    return record


def reuse(stage: str, folder: Path, label: str | None = None, *, state: str | None = None) -> Outcome | None:
    """The outcome of a stage that has finished in this folder before; None if it has not.

    Args:
        stage: its name.
        folder: of its output.
        label: what to call it on the console, if not by the stage's name.
        state: see `run_once`; deleted where a kill came between the record and its end.
    """
    record = read_record(folder)
    if record is None:
        return None
    _remove_state(folder, state)
    console.print(f"{label or stage:<18} already done: {_relative(folder)}", style="dim", markup=False, soft_wrap=True)
    return Outcome(stage=stage, output=folder, reused=True, wall_s=record.wall_s, result=record.result)


def watched(stage: str, run_dir: Path, config: Config) -> AbstractContextManager[None]:
    """Label events and metrics of a block by its run and stage, and keep the events in the run's folder."""
    return bound_to_run(run_dir, on_stderr=config.cluster.log_json, run=config.name, stage=stage)


def run_once(
    stage: str,
    folder: Path,
    identity: dict[str, Any],
    config: Config,
    work: Callable[[Path], dict[str, Any]],
    *,
    outputs: Iterable[str] = (),
    state: str | None = None,
    label: str | None = None,
) -> Outcome:
    """Do a stage's work unless its record is there already.

    Args:
        stage: its name.
        folder: where its output goes; may hold the beginnings of an interrupted run, which `work` continues.
        identity: all values that decide its output.
        config: the whole config.
        work: makes the output in the folder and returns the stage's own numbers.
        outputs: files that the work leaves, relative to the folder; if one is deleted later, the work is done again.
        state: folder in it from which `work` continues; deleted when the record is there, as till then it is needed.
        label: what to call it on the console, if not by the stage's name.

    Raises:
        StageError: another driver works in the folder, or its record is corrupt.
    """
    outcome = reuse(stage, folder, label, state=state)
    if outcome is not None:
        return outcome
    with alone_in(folder):
        outcome = reuse(stage, folder, label, state=state)  # another driver may have finished it since
        if outcome is not None:
            return outcome
        label = label or stage
        console.print(f"[bold]{label:<18}[/bold] {escape(_relative(folder))}", soft_wrap=True)
        storage = Folder(str(folder))
        clock = _Clock(storage)
        begun = BegunStage(stage=stage, config=redact_values(config), begun=_now())
        storage.write_bytes(BEGUN_NAME, (begun.model_dump_json(indent=1) + "\n").encode())
        with watched(stage, folder.parent, config):
            tell("stage_begun", folder=folder.name, host=socket.gethostname(), pid=os.getpid())
            try:
                result = work(folder)
            except BaseException as error:
                tell("stage_failed", reason_of(error), level="error", error=type(error).__name__)
                _leave_no_empty_folder(folder)
                clock.keep()
                raise
            record = StageRecord(
                stage=stage,
                identity=redact_values(identity),
                config=redact_values(config),
                versions=versions(),
                machine=machine(),
                git_commit=git_commit(),
                finished=_now(),
                wall_s=round(clock.total_s(), 3),
                outputs=tuple(outputs),
                result=redact_values(result),
            )
            storage.write_bytes(RECORD_NAME, (record.model_dump_json(indent=1) + "\n").encode())
            clock.forget()
            (folder / BEGUN_NAME).unlink(missing_ok=True)
            _remove_state(folder, state)
            tell("stage_done", wall_s=record.wall_s)
        console.print(f"{label:<18} done in {record.wall_s:.1f} s", style="green")
        return Outcome(stage=stage, output=folder, reused=False, wall_s=record.wall_s, result=result)


def read_begun(folder: Path) -> BegunStage | None:
    """What a stage that has not finished in a folder was begun with; None if that is not known."""
    try:
        return BegunStage.model_validate(parse_json((folder / BEGUN_NAME).read_bytes()))
    except (OSError, ValueError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _leave_no_empty_folder(folder: Path) -> None:
    """Delete the folder of a stage that failed before it wrote anything."""
    if not any(path.is_file() and path.name not in (BEGUN_NAME, LOCK_NAME) for path in folder.rglob("*")):
        remove_folder(folder)


class _Clock:
    """Seconds of work, added up over interrupted runs as far as they ended in order (an error or Ctrl-C)."""

    _NAME = "elapsed.json"

    def __init__(self, storage: Folder) -> None:
        self._storage = storage
        self._before_s = self._read_s() if storage.exists(self._NAME) else 0.0
        self._start_s = time.monotonic()

    def _read_s(self) -> float:
        try:
            return float(parse_json(self._storage.read_bytes(self._NAME)))
        except (OSError, ValueError, TypeError) as error:
            where = self._storage.join(self._NAME)
            raise StageError(f"{where} cannot be read ({reason_of(error)}); delete it to count from 0.") from error

    def total_s(self) -> float:
        return self._before_s + time.monotonic() - self._start_s

    def keep(self) -> None:
        if self._storage.exists():  # a stage that failed before it wrote anything leaves nothing behind
            self._storage.write_bytes(self._NAME, json.dumps(self.total_s()).encode())

    def forget(self) -> None:
        Path(self._storage.join(self._NAME)).unlink(missing_ok=True)


def _remove_state(folder: Path, state: str | None) -> None:
    """Delete a folder of state; it is renamed first, so that a kill leaves no part that is taken for the whole."""
    if state is None:
        return
    removed = folder / f"{state}.removed"
    remove_folder(removed)
    if (folder / state).exists():
        (folder / state).rename(removed)
        remove_folder(removed)


def remove_folder(folder: Path) -> None:
    """Delete a folder of intermediate state, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
