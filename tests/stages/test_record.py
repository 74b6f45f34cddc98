"""A stage's work is done once; what was interrupted leaves no record, and its time is not lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sio_ray.config import build_config, load_config
from sio_ray.errors import ResourceError, StageError, TrainingError
from sio_ray.provenance import machine, versions
from sio_ray.stages import record
from sio_ray.stages.record import Outcome, read_begun, read_record, require, run_once

CONFIG = load_config("digits")
IDENTITY = {"stage": "prepare", "seed": 0}


class Stage:
    """A stage of known duration that counts how often it worked, on a clock that only it moves."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now_s, self.num_calls = folder, 100.0, 0
        monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def run(
        self, seconds: float = 1.0, *, fail: BaseException | None = None, write: bool = True, label: str | None = None
    ) -> Outcome:
        def work(folder: Path) -> dict[str, Any]:
            self.num_calls += 1
            self.now_s += seconds
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"part{self.num_calls}").write_text("done")
            if fail is not None:
                raise fail
            return {"num_images": 3}

        return run_once("prepare", self.folder, IDENTITY, CONFIG, work, outputs=["part1"] if write else [], label=label)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path / "prepare-0123", monkeypatch)


def test_work_is_done_once_and_then_reused(stage: Stage) -> None:
    first = stage.run(2.5)
    assert first == Outcome(stage="prepare", output=stage.folder, reused=False, wall_s=2.5, result={"num_images": 3})
    assert stage.run(9.0) == first.model_copy(update={"reused": True})
    assert stage.num_calls == 1
    assert sorted(path.name for path in stage.folder.iterdir()) == ["part1", "stage.json"]


def test_work_whose_output_was_deleted_is_done_again(stage: Stage) -> None:
    stage.run()
    (stage.folder / "part1").rename(stage.folder / "elsewhere")
    with pytest.raises(StageError, match=r"is missing or unfinished\); run `sio-ray prepare`"):
        require(stage.folder, "prepare", "train")
    assert not stage.run().reused
    assert stage.num_calls == 2


def test_the_record_says_what_was_done_with_what(stage: Stage) -> None:
    stage.run(2.5)
    found = read_record(stage.folder)
    assert found is not None
    assert (found.stage, found.identity, found.wall_s, found.result) == ("prepare", IDENTITY, 2.5, {"num_images": 3})
    assert build_config(found.config) == CONFIG
    assert (found.versions, found.machine) == (versions(), machine())
    assert found.finished.endswith("+00:00")


@pytest.mark.parametrize("error", [TrainingError("diverged"), KeyboardInterrupt(), SystemExit(2)])
def test_an_interrupted_run_leaves_no_record_and_its_seconds_are_added_up(stage: Stage, error: BaseException) -> None:
    for seconds in (2.0, 3.5):
        with pytest.raises(type(error)) as caught:
            stage.run(seconds, fail=error)
        assert caught.value is error
        assert read_record(stage.folder) is None
        stage.now_s += 1000  # the time until someone starts it again is not work
    assert stage.run(1.25).wall_s == 6.75
    assert stage.num_calls == 3
    found = read_record(stage.folder)
    assert found is not None
    assert found.wall_s == 6.75
    assert sorted(path.name for path in stage.folder.iterdir()) == ["part1", "part2", "part3", "stage.json"]


def test_a_stage_that_fails_before_it_writes_leaves_no_folder(stage: Stage) -> None:
    with pytest.raises(TrainingError, match="no GPU"):
        stage.run(fail=TrainingError("no GPU"), write=False)
    assert not stage.folder.exists()


def test_a_record_that_cannot_be_written_does_not_count_as_done(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full_disk(source: Any, target: Any) -> None:
        if Path(target).name == "stage.json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as disk:
        disk.setattr("os.replace", full_disk)
        with pytest.raises(ResourceError, match=r"cannot write .*/prepare-0123/stage\.json \(\[Errno 28\] No space"):
            stage.run()
    assert read_record(stage.folder) is None
    assert sorted(path.name for path in stage.folder.iterdir()) == ["begun_stage.json", "part1"]
    assert not stage.run().reused


def test_what_a_stage_was_begun_with_is_told_until_it_has_finished(stage: Stage) -> None:
    with pytest.raises(TrainingError):
        stage.run(fail=TrainingError("a worker died"))
    begun = read_begun(stage.folder)
    assert begun is not None
    assert (begun.stage, begun.config) == ("prepare", CONFIG.model_dump(mode="json"))
    stage.run()
    assert read_begun(stage.folder) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stage": "prepare"}'])
def test_a_corrupt_record_is_named_with_the_folder_to_delete(text: str, stage: Stage) -> None:
    stage.run()
    (stage.folder / "stage.json").write_text(text)
    message = rf"^{stage.folder}/stage\.json cannot be read \(.+\); delete {stage.folder} to run that stage again\.$"
    for use in (stage.run, lambda: read_record(stage.folder), lambda: require(stage.folder, "prepare", "train")):
        with pytest.raises(StageError, match=message):
            use()
    assert stage.num_calls == 1


def test_a_record_with_an_unknown_field_is_refused(stage: Stage) -> None:
    stage.run()
    path = stage.folder / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": 1}))
    with pytest.raises(StageError, match=r"stage\.json cannot be read \(1 validation error"):
        read_record(stage.folder)


def test_require_gives_the_record_or_names_the_stage_to_run(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = (
        "train needs the output of prepare for this config (prepare-0123 is missing or unfinished); "
        "run `sio-ray prepare` with the same config, or `sio-ray run` for all stages."
    )
    with pytest.raises(StageError) as missing:
        require(stage.folder, "prepare", "train")
    with pytest.raises(TrainingError, match="half"):
        stage.run(fail=TrainingError("half"))
    with pytest.raises(StageError) as unfinished:
        require(stage.folder, "prepare", "train")
    assert str(missing.value) == str(unfinished.value) == message
    stage.run()
    assert require(stage.folder, "prepare", "train").result == {"num_images": 3}


def test_a_folder_with_brackets_is_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # To rich, which prints, [old] is a style and [/] the end of one.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record.console, "width", 200)
    stage = Stage(tmp_path / "[old]" / "x[" / "]", monkeypatch)
    stage.run(label="train sio, seed 0")
    stage.run(label="train sio, seed 0")
    assert [line.split() for line in capsys.readouterr().err.splitlines()] == [
        ["train", "sio,", "seed", "0", "[old]/x[/]"],
        ["train", "sio,", "seed", "0", "done", "in", "1.0", "s"],
        ["train", "sio,", "seed", "0", "already", "done:", "[old]/x[/]"],
    ]


def test_the_state_that_work_goes_on_from_is_kept_until_the_record_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, resumed = tmp_path / "train-0123", []
    state = folder / "ray_train"

    def work(_: Path) -> dict[str, Any]:
        resumed.append((state / "checkpoint").exists())
        state.mkdir(parents=True, exist_ok=True)
        (state / "checkpoint").write_text("step 1000")
        return {}

    def run() -> Outcome:
        return run_once("train", folder, IDENTITY, CONFIG, work, state="ray_train")

    def kill(*paths: Path, **_: object) -> None:
        if all(path.exists() for path in paths):
            raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(record, "git_commit", kill)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert state.exists()
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert resumed == [False, True]
    assert not state.exists(), "what is deleted in part is taken for nothing"
    for leave in (lambda: None, lambda: state.mkdir()):
        leave()
        assert run().reused
        assert sorted(path.name for path in folder.iterdir()) == ["stage.json"]
