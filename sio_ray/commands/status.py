"""`sio-ray status`: the state of a run from its output folder alone, whether or not its driver lives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sio_ray.commands import status_progress as progress
from sio_ray.commands.rerun import command_for, is_preset
from sio_ray.commands.status_progress import Progress
from sio_ray.config import STAGES, Config, build_config
from sio_ray.errors import ConfigError, SioRayError, StageError
from sio_ray.imageset.files import is_shard
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.storage import Folder
from sio_ray.redaction import is_redacted, redact
from sio_ray.stages import layout
from sio_ray.stages.record import StageRecord, read_begun, read_record
from sio_ray.stages.trainings import trainings

_FOLDER = re.compile(
    r"(?P<stage>prepare|fit-generator|generate|evaluate|tune|report"
    r"|train-(?P<arm>baseline|sio)(-(?P<algorithm>[a-z_]+))?-seed(?P<seed>\d+)(-member(?P<member>\d+))?)-[0-9a-f]{12}"
)

State = Literal["done", "unfinished", "not begun", "unreadable"]


@dataclass(frozen=True)
class StageState:
    """Where one stage, or one training run, stands.

    Attributes:
        stage: its name.
        label: the same, with arm and seed of a training run.
        state: whether it has finished.
        folder: name in the run's folder; None if it has not begun.
        finished: date and time, UTC.
        wall_s: seconds of work, over all attempts.
        progress: how far it is, where it is not done.
        modified: when something in its folder last changed, UTC.
        is_current: whether it belongs to the config that ran last; None if no config is known.
        command: what goes on with it; None where it is done, or belongs to another config.
    """

    stage: str
    label: str
    state: State
    folder: str | None = None
    finished: str | None = None
    wall_s: float | None = None
    progress: Progress = field(default_factory=Progress)
    modified: str | None = None
    is_current: bool | None = None
    command: str | None = None


@dataclass(frozen=True)
class RunState:
    """Where a run, or a generated set, stands.

    Attributes:
        folder: of the run, or URI of the set, without secrets.
        kind: which of the two.
        stages: in the order of the work.
        command: what goes on with it; None where all is done, or it cannot be told.
        config_in: name of the stage's folder whose record, or note of what it was begun with, holds the config that
            `command` needs as a file; None if it needs none.
    """

    folder: str
    kind: Literal["run", "image set"]
    stages: tuple[StageState, ...]
    command: str | None = None
    config_in: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing of the config that ran last is left to do."""
        return all(stage.state == "done" for stage in self.stages if stage.is_current is not False)


@dataclass(frozen=True)
class _Piece:
    """A folder of a stage and what its record says."""

    path: Path
    stage: str
    label: str
    record: StageRecord | None
    problem: str = ""


def status_of(out: str) -> list[RunState]:
    """Read the state of the runs in a folder.

    Args:
        out: the folder of a run, the folder of several, or path or URI of a generated set.

    Raises:
        StageError: there is none of these.
        SioRayError: a URI cannot be listed.
    """
    place = Path(out)
    if "://" not in out and not place.is_dir():
        raise StageError(f"there is no folder {out}; give the output folder of a run, such as runs/digits.")
    if "://" in out or _is_image_set(place):
        return [_set_state(Folder(out))]
    for runs in ([place], sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())):
        if found := [_run_state(run) for run in runs if _holds_run(run)]:
            return found
    raise StageError(
        f"{out} must hold a run (folders such as prepare-0123456789ab), runs, or an image set, got none; "
        "check the path."
    )


def _is_image_set(folder: Path) -> bool:
    return any(name in (MANIFEST_NAME, "plan.json") or is_shard(name) for name in Folder(str(folder)).files())


def _holds_run(folder: Path) -> bool:
    return any(_FOLDER.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())


def _set_state(folder: Folder) -> RunState:
    found = progress.of_image_set(folder)
    manifest = progress.finished_set(folder) if folder.exists(MANIFEST_NAME) else None
    if manifest is None and not found.done and found.total is None:
        raise StageError(f"{folder.safe_uri} must hold an image set, got none; check the path, or your access to it.")
    if manifest is not None:
        note = f"{manifest.num_images:,} images, {manifest.num_bytes / 1e6:,.1f} MB"
        found = Progress(len(manifest.shards), len(manifest.shards), "shards", note)
    modified = None if "://" in folder.uri else progress.last_modified(Path(folder.uri))
    state = StageState("generate", folder.name, "done" if manifest else "unfinished", progress=found, modified=modified)
    return RunState(folder.safe_uri, "image set", (state,))


def _run_state(run: Path) -> RunState:
    run = run.absolute()
    pieces = [_piece(path) for path in sorted(run.iterdir()) if _FOLDER.fullmatch(path.name) and path.is_dir()]
    newest, config = _newest_config(run, pieces)
    expected = _expected(config) if config else {}
    states = [_state_of(piece, run, config, expected) for piece in pieces]
    begun = {state.folder for state in states}
    missing = [(name, what) for name, what in expected.items() if name not in begun]
    states += [
        StageState(stage, label, "not begun", None, is_current=True, command=_command_for(stage, config))
        for name, (stage, label, _) in missing
        if not (name.endswith(_ANY) and any(state.stage == stage for state in states))
    ]
    if (run / "trials").is_dir() and not any(state.stage == "tune" for state in states):
        found = progress.of_tune(run / "trials", config.tune if config else None)
        modified = progress.last_modified(run / "trials")
        command = _command_for("tune", config)
        states.append(StageState("tune", "tune", "unfinished", progress=found, modified=modified, command=command))
    states.sort(key=lambda state: (STAGES.index(state.stage), state.is_current is False))
    command = _command(states, config)
    needs_file = command is not None and config is not None and not is_preset(config)
    return RunState(str(run), "run", tuple(states), command, newest if needs_file else None)


def _piece(path: Path) -> _Piece:
    match = _FOLDER.fullmatch(path.name)
    assert match is not None, "only such folders are asked for"
    stage = "train" if match["arm"] else match["stage"]
    label = stage
    if match["arm"]:
        algorithm = match["algorithm"] or "cross_entropy"
        label = f"train {layout.run_name(match['arm'], algorithm, match['seed'], match['member'] or 0)}"
    try:
        return _Piece(path, stage, label, read_record(path))
    except StageError as error:
        return _Piece(path, stage, label, None, str(error))


def _newest_config(run: Path, pieces: Iterable[_Piece]) -> tuple[str | None, Config | None]:
    """The config of the stage that began or finished last, as if it were run where its folder lies now."""
    found = [(piece.record.finished, piece, piece.record.config) for piece in pieces if piece.record is not None]
    notes = [(piece, read_begun(piece.path)) for piece in pieces if piece.record is None]
    found += [(note.begun, piece, note.config) for piece, note in notes if note is not None]
    for _, piece, values in sorted(found, key=lambda each: each[0], reverse=True):
        try:
            config = build_config(values)
        except ConfigError:  # of another version
            continue
        if config.name == run.name:
            return piece.path.name, config.model_copy(update={"output_dir": run.parent})
    return None, None


#: Stands for a fingerprint that takes seconds to compute, as it needs the list of all detectors.
_ANY = "-*"


def _expected(config: Config) -> dict[str, tuple[str, str, int | None]]:
    """Folder to (stage, label, training steps) of all that `run` would do with a config."""
    found: dict[str, tuple[str, str, int | None]] = {}
    order = layout.run_order(config)
    for stage, place in (
        ("prepare", layout.prepare_place),
        ("fit-generator", layout.fit_generator_place),
        ("generate", layout.generate_place),
    ):
        if stage in order:
            steps = config.fit_generator.num_steps if stage == "fit-generator" else None
            found[place(config).folder.name] = (stage, stage, steps)
    if "train" in order:
        for each in layout.train_runs(config):
            steps = config.train.num_steps if config.train.num_epochs is None else None
            found[each.place.folder.name] = ("train", f"train {each.name}", steps)
    for training in trainings(config) if config.methods else ():
        name = layout.evaluate_place(training.config).folder.name
        found[name] = ("evaluate", f"evaluate {training.name}", None)
    for stage, place in (("evaluate", layout.evaluate_place), ("report", layout.report_place)):
        name = f"{stage}{_ANY}" if "all" in config.evaluate.detectors else place(config).folder.name
        found[name] = (stage, stage, None)
    return found


def _state_of(
    piece: _Piece, run: Path, config: Config | None, expected: dict[str, tuple[str, str, int | None]]
) -> StageState:
    name = piece.path.name
    _, label, num_steps = expected.get(name, (piece.stage, piece.label, None))
    is_current = None
    if config is not None:
        is_current = name in expected or f"{piece.stage}{_ANY}" in expected or piece.stage == "tune"
    modified = progress.last_modified(piece.path)
    record = piece.record
    if record is not None and (piece.stage != "generate" or _set_is_there(piece.path, record)):
        return StageState(
            *(piece.stage, label, "done", name, record.finished, record.wall_s),
            modified=modified,
            is_current=is_current,
        )
    found = Progress(note=piece.problem) if piece.problem else _progress(piece, run, config, num_steps)
    return StageState(
        piece.stage,
        label,
        "unreadable" if piece.problem else "unfinished",
        name,
        progress=found,
        modified=modified,
        is_current=is_current,
        command=_command_for(piece.stage, config) if is_current else None,
    )


def _set_is_there(folder: Path, record: StageRecord) -> bool:
    """Whether the set that generate wrote is still there; a set elsewhere is not asked for over the network."""
    output = record.identity.get("output")
    if output is None:
        return (folder / "images" / MANIFEST_NAME).is_file()
    return not isinstance(output, str) or "://" in output or (Path(output) / MANIFEST_NAME).is_file()


def _progress(piece: _Piece, run: Path, config: Config | None, num_steps: int | None) -> Progress:
    match piece.stage:
        case "prepare":
            return progress.of_prepare(piece.path)
        case "fit-generator" | "train":
            return progress.of_training(piece.path, num_steps)
        case "generate":
            return _of_generate(piece.path, config)
        case "evaluate":
            return progress.of_evaluate(run, piece.path)
        case "tune":
            return progress.of_tune(run / "trials", config.tune if config else None)
    return Progress()


def _of_generate(folder: Path, config: Config | None) -> Progress:
    output = config.generate.output if config is not None else None
    if output is not None and "://" in output:
        hint = " with its secret" if is_redacted(output) else ""
        return Progress(note=f"its shards are in {redact(output)}; ask sio-ray status of that{hint}")
    try:
        return progress.of_image_set(Folder(output or str(folder / "images")))
    except SioRayError as error:
        return Progress(note=str(error))


def _command_for(stage: str, config: Config | None) -> str | None:
    return None if config is None else command_for(stage, config)


def _command(states: list[StageState], config: Config | None) -> str | None:
    """One command for the whole run: `run` where the real sets are its own, else the first stage that is not done."""
    left = [state for state in states if state.is_current is not False and state.state != "done"]
    if not left or config is None:
        return None
    begun = [state for state in left if state.state != "not begun"]
    only_search = all(state.stage == "tune" for state in left)
    if only_search or not any(state.stage == "prepare" for state in states if state.state != "not begun"):
        return (begun or left)[0].command
    return command_for("run", config)
