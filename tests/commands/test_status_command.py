"""The state of a run is read from its folder alone: what is done, how far the rest is, and what continues it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState, _TrainingResultState

from sio_ray.cli import main
from sio_ray.commands.rerun import command_for
from sio_ray.commands.status import RunState, status_of
from sio_ray.commands.status_progress import Progress, of_tune
from sio_ray.config import Config, load_config
from sio_ray.errors import StageError
from sio_ray.imageset import ImageSetInfo, write_image_set
from sio_ray.stages.begun import note_begun
from sio_ray.stages.layout import (
    Place,
    evaluate_place,
    fit_generator_place,
    generate_place,
    prepare_place,
    report_place,
    train_runs,
)
from sio_ray.stages.record import run_once
from sio_ray.stages.trainings import trainings

SMALL = ["train.seeds=[0,1]", "train.num_steps=50", "generate.synthetic_ratio=0.25"]
INFO = ImageSetInfo(class_names=("a", "b"), height_px=2, width_px=2, channels=1)


class Killed(BaseException):
    """Ends a stage's work, as a kill of the driver does; unlike a kill, it lets the stage take note."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config("digits", [*SMALL, f"output_dir={tmp_path / 'runs'}"])


def finish(stage: str, place: Place, config: Config, **files: str) -> None:
    def work(folder: Path) -> dict[str, Any]:
        write_set(folder / "images")
        for name, text in files.items():
            (folder / name).write_text(text)
        return {"curve": []}

    run_once(stage, place.folder, place.identity, config, work)


def kill(stage: str, place: Place, config: Config, leave: Any) -> None:
    def work(folder: Path) -> dict[str, Any]:
        leave(folder)
        raise Killed

    with pytest.raises(Killed):
        run_once(stage, place.folder, place.identity, config, work)


def write_set(folder: Path, num_shards: int = 3, missing: int = 0) -> None:
    """A set of two pictures a shard; with shards missing there is no manifest either, as in one that is being made."""
    images = np.zeros((2 * num_shards, 1, 2, 2), dtype=np.uint8)
    manifest = write_image_set(folder, INFO, images, np.arange(2 * num_shards) % 2, images_per_shard=2)
    for shard in manifest.shards[:missing]:
        (folder / shard.name).unlink()
    if missing:
        (folder / "manifest.json").unlink()
        plan = {"num_images": 2 * num_shards, "generate.images_per_shard": 2}
        (folder / "plan.json").write_text(json.dumps(plan))


def leave_checkpoint(folder: Path, name: str, step: int) -> None:
    """What Ray Train leaves of a run that has committed a checkpoint, by Ray's own class."""
    result = _TrainingResultState(checkpoint_dir_name="checkpoint_x", metrics={"step": step, "loss": 0.5})
    state = _CheckpointManagerState(
        checkpoint_results=[result],
        checkpoint_report_indices=[0],
        latest_checkpoint_result=result,
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=1,
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    place = folder / "ray_train" / name
    place.mkdir(parents=True)
    (place / "checkpoint_manager_snapshot.json").write_text(state.model_dump_json())


def finish_all(config: Config) -> None:
    finish("prepare", prepare_place(config), config)
    finish("fit-generator", fit_generator_place(config), config)
    finish("generate", generate_place(config), config)
    for run in train_runs(config):
        finish("train", run.place, config)
    finish("evaluate", evaluate_place(config), config)
    finish("report", report_place(config), config)


def only(out: str | Path) -> RunState:
    (found,) = status_of(str(out))
    return found


def states(found: RunState) -> dict[str, str]:
    return {stage.label: stage.state for stage in found.stages}


def test_of_a_finished_run_nothing_is_left(config: Config) -> None:
    finish_all(config)
    found = only(config.run_dir)
    assert list(states(found)) == [
        *("prepare", "fit-generator", "generate"),
        *("train baseline, seed 0", "train baseline, seed 1", "train sio, seed 0", "train sio, seed 1"),
        *("evaluate", "report"),
    ]
    assert set(states(found).values()) == {"done"}
    assert found.is_done
    assert found.command is None
    assert all(stage.finished and stage.wall_s is not None and stage.modified for stage in found.stages)
    assert only(config.output_dir) == found


def test_each_unfinished_stage_says_how_far_it_is(config: Config) -> None:
    finish("prepare", prepare_place(config), config)
    kill("fit-generator", fit_generator_place(config), config, lambda folder: leave_checkpoint(folder, "generator", 40))
    kill("generate", generate_place(config), config, lambda folder: write_set(folder / "images", 5, missing=2))
    first, second, *_ = train_runs(config)
    kill("train", second.place, config, lambda folder: leave_checkpoint(folder, folder.name, 20))
    note_begun(second.place.folder / "ray_train", config, second)
    kill("train", first.place, config, lambda folder: note_begun(folder / "ray_train", config, first))
    store = config.run_dir / "outputs-0123456789ab" / "id-train-x"
    store.mkdir(parents=True)
    for shard in (0, 2):
        (store / f"outputs-{shard:05d}-of-00004.arrow").write_bytes(b"")
    kill("evaluate", evaluate_place(config), config, lambda folder: (folder / "x").write_text("x"))
    for trial, name in (("a", "result.json"), ("b", "state.safetensors"), ("c", "error.json")):
        (config.run_dir / "trials" / trial).mkdir(parents=True)
        (config.run_dir / "trials" / trial / name).write_text("{}")
    found = {stage.label: stage for stage in only(config.run_dir).stages}
    how_far = {label: (stage.progress.done, stage.progress.total) for label, stage in found.items()}
    assert how_far == {
        "prepare": (None, None),
        "fit-generator": (40, config.fit_generator.num_steps),
        "generate": (3, 5),
        "train baseline, seed 0": (0, 50),
        "train baseline, seed 1": (20, 50),
        "train sio, seed 0": (None, None),
        "train sio, seed 1": (None, None),
        "evaluate": (2, 4),
        "tune": (1, config.tune.num_trials + 1),
        "report": (None, None),
    }
    assert {label for label, stage in found.items() if stage.state == "not begun"} == {
        *("train sio, seed 0", "train sio, seed 1", "report")
    }
    assert found["tune"].progress.note == "2 begun, 1 ended with an error"
    assert not only(config.run_dir).is_done


def test_the_command_that_continues_has_the_config_that_was_begun(config: Config) -> None:
    kill("prepare", prepare_place(config), config, lambda folder: write_set(folder / "id" / "train"))
    found = only(config.run_dir)
    assert states(found)["prepare"] == "unfinished"
    assert found.command is not None
    program, command, preset, *overrides = shlex.split(found.command)
    assert (program, command) == ("sio-ray", "run")
    assert load_config(preset, overrides) == config


@pytest.mark.parametrize("place", ["runs", "elsewhere"])
def test_a_run_that_was_moved_goes_on_where_it_is(place: str, config: Config, tmp_path: Path) -> None:
    finish("prepare", prepare_place(config), config)
    moved = tmp_path / place / "digits"
    moved.parent.mkdir(exist_ok=True)
    config.run_dir.rename(moved)
    command = only(moved).command
    assert command is not None
    again = load_config(shlex.split(command)[2], shlex.split(command)[3:])
    assert again.run_dir == moved


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.seeds=[3]", "report.title='a: b # c'", 'generate.prompt="it\'s {class_name}"'],
        ["evaluate.detector_options={knn: {k: 5}}", "train.num_epochs=null", "generate.output=/a b/c"],
        ["generate.curation.min_confidence=0.2", "prepare.near_ood_sets=null", "report.title=null"],
    ],
)
def test_a_command_gives_the_config_it_was_made_of(overrides: list[str]) -> None:
    config = load_config("digits", overrides)
    words = shlex.split(command_for("train", config))
    assert words[:3] == ["sio-ray", "train", "digits"]
    assert load_config("digits", words[3:]) == config


def test_a_config_of_ones_own_is_named_with_where_it_is_written(tmp_path: Path) -> None:
    config = load_config("digits", ["name=mine", f"output_dir={tmp_path}"])
    finish("prepare", prepare_place(config), config)
    found = only(tmp_path / "mine")
    assert found.command == f"sio-ray run mine.yaml output_dir={tmp_path}"
    assert found.config_in == prepare_place(config).folder.name


def test_what_another_config_left_is_told_apart(config: Config) -> None:
    old = load_config("digits", [*SMALL, f"output_dir={config.output_dir}", "train.num_steps=7"])
    finish_all(old)
    finish_all(config)
    for record in config.run_dir.glob("*/stage.json"):  # as records are good to the second
        if json.loads(record.read_text())["config"]["train"]["num_steps"] == 7:
            record.write_text(record.read_text().replace('"finished": "20', '"finished": "19'))
    found = only(config.run_dir)
    assert found.is_done
    assert sum(stage.is_current is False for stage in found.stages) == len(train_runs(old)) + 2


def test_a_set_that_was_deleted_is_to_be_drawn_again(config: Config) -> None:
    finish_all(config)
    shutil.rmtree(generate_place(config).folder / "images")
    assert states(only(config.run_dir))["generate"] == "unfinished"


@pytest.mark.parametrize("missing", [0, 2])
def test_a_generated_set_by_itself(missing: int, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 4, missing)
    for uri in (str(tmp_path / "set"), f"file://{tmp_path}/set"):
        found = only(uri)
        assert found.kind == "image set"
        (stage,) = found.stages
        assert (stage.progress.done, stage.progress.total) == (4 - missing, 4)
        assert found.is_done is not bool(missing)


@pytest.mark.parametrize("make", [lambda place: None, Path.mkdir, Path.touch])
def test_a_folder_without_a_run_is_refused(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(StageError, match=r"there is no folder|must hold a run"):
        status_of(str(tmp_path / "x"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 10_000, '{"latest_checkpoint_result": {"metrics": {"step": []}}}']
)
def test_broken_files_are_shown_and_stop_nothing(text: str, config: Config) -> None:
    finish_all(config)
    generate, (first, *_) = generate_place(config).folder, train_runs(config)
    (generate / "stage.json").write_text(text)
    (first.place.folder / "stage.json").unlink()
    leave_checkpoint(first.place.folder, "x", 1)
    (first.place.folder / "ray_train" / "x" / "checkpoint_manager_snapshot.json").write_text(text)
    (first.place.folder / "ray_train" / "begun.json").write_text(text)
    found = {stage.label: stage for stage in only(config.run_dir).stages}
    assert found["generate"].state == "unreadable"
    assert "cannot be read" in found["generate"].progress.note
    assert found["train baseline, seed 0"].state == "unfinished"


def test_names_do_nothing_to_the_terminal_and_only_folders_of_stages_count(
    config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    finish("prepare", prepare_place(config), config)
    for name in ("train-\x1b[31m-seed0-0123456789ab", "evaluate-..", "notes"):
        (config.run_dir / name).mkdir()
    odd = config.run_dir.with_name("\x1b]0;title\a")
    config.run_dir.rename(odd)
    main_ends_well(["status", str(odd)])
    assert "\x1b]0" not in capfd.readouterr().err
    assert len(only(odd).stages) == 1  # of no config, as the folder's name is another than the config's


def main_ends_well(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (None, 0)


def test_it_needs_neither_ray_nor_torch_and_prints_json(config: Config) -> None:
    finish_all(config)
    script = (
        "import sys, atexit\n"
        "heavy = {'ray', 'torch', 'diffusers', 'pandas'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "from sio_ray.cli import main\n"
        f"main(['status', {str(config.run_dir)!r}, '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    expected = json.loads(json.dumps(asdict(only(config.run_dir)) | {"is_done": True}))
    assert json.loads(done.stdout) == [expected]


def test_secrets_are_left_out_of_the_command(tmp_path: Path) -> None:
    output = "s3://KEY:hunter2@bucket/set"
    config = load_config("digits", [*SMALL, f"output_dir={tmp_path}", f"generate.output={output}"])
    finish("prepare", prepare_place(config), config)
    kill("generate", generate_place(config), config, lambda folder: (folder / "x").write_text("x"))
    found = json.dumps(asdict(only(config.run_dir)))
    assert "hunter2" not in found
    assert "s3://KEY:***@bucket/set; ask sio-ray status of that with its secret" in found


def test_trainings_of_methods_are_told_apart(tmp_path: Path) -> None:
    config = load_config("digits", [*SMALL, f"output_dir={tmp_path}", "train.arms=[baseline]", "methods=[msp,vos]"])
    first, *_, last = train_runs(config)
    finish("train", first.place, config)
    finish("train", last.place, config)
    finish("evaluate", evaluate_place(trainings(config)[1].config), config)
    (run,) = status_of(str(config.run_dir))
    states = {stage.label: (stage.state, stage.is_current) for stage in run.stages}
    assert states == {
        "prepare": ("not begun", True),
        "train baseline, seed 0": ("done", True),
        "train baseline, seed 1": ("not begun", True),
        "train baseline, vos, seed 0": ("not begun", True),
        "train baseline, vos, seed 1": ("done", True),
        "evaluate cross_entropy": ("not begun", True),
        "evaluate vos": ("done", True),
        "evaluate": ("not begun", True),
        "report": ("not begun", True),
    }
    assert run.command is not None
    assert "methods='[msp, vos]'" in run.command.replace("'methods=", "methods='")


@pytest.mark.parametrize(
    ("overrides", "total"),
    [
        ((), 17),
        (("tune.algorithm=pbt", "tune.num_trials=4", "tune.num_validations=4"), 17),
        (("tune.space=tune_spaces/weight_grid.py",), 5),
        (("tune.space=/on/the/cluster.py",), 17),
    ],
)
def test_trials_are_counted_out_of_those_that_the_search_will_try(
    tmp_path: Path, overrides: tuple[str, ...], total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    section = load_config("digits", overrides).tune
    assert of_tune(tmp_path, section) == Progress(0, total, "trials")
    for number in range(total + 1):
        assert of_tune(tmp_path, section).total == total
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "result.json").write_text("{}")
    assert of_tune(tmp_path, section) == Progress(total + 1, None, "trials"), "the best are confirmed too"
    assert of_tune(tmp_path, None).total is None
