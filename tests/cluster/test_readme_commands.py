"""Every `sio-ray` command of the README runs, on small settings."""

from pathlib import Path

import numpy as np
import pytest
from markdown_commands import read_document, sio_ray_commands
from PIL import Image

from sio_ray.cli import main
from sio_ray.stages.layout import prepare_place, synthetic_set_uri, train_runs

COMMANDS = sio_ray_commands(read_document("README.md"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(arguments, capsys):
    """Run one command line; what it prints goes where `>` says."""
    target = None
    if ">" in arguments:
        arguments, target = arguments[: arguments.index(">")], arguments[arguments.index(">") + 1]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code in (0, None), captured.err
    if target:
        Path(target).write_text(captured.out)
    return captured


def test_the_readme_has_the_commands_that_are_tested_here():
    stages = {"run", "config", "train", "tune", "evaluate", "generate", "report"}
    elsewhere = {"submit", "jobs"}  # test_cluster_doc.py, and on a cluster test_submitted_jobs.py
    here = {*("plan", "images", "quality", "detectors", "status", "logs", "study")}
    assert {stage for stage, *_ in COMMANDS} == stages | elsewhere | here


def test_commands_on_digits(finished, capsys, tmp_path):
    overrides, config, _ = finished
    space = tmp_path / "space.py"
    # The pool of the small run is a quarter of the real set; the space of the README asks for more.
    space.write_text('SPACE = {"train.real_weight": ("uniform", 0.5, 0.9)}\n')
    one_arm = ["train.arms=[sio]", "train.num_steps=4"]
    small = {"tune": [f"--space={space}", "--num-trials=1", "tune.confirm_seeds=[]"], "train": one_arm}
    stages = ("run", "train", "tune", "evaluate", "report")
    commands = [arguments for arguments in COMMANDS if arguments[0] in stages and arguments[1] == "digits"]
    assert len(commands) == 8
    for arguments in commands:
        if "train.real_weight=0.9" in arguments:
            check_that_sio_alone_is_trained([*arguments, *overrides], config, capsys)
        elif "evaluate.detectors=[all]" not in arguments:  # test_evaluate_stage.py runs that
            run([*arguments, *overrides, *small.get(arguments[0], [])], capsys)


def check_that_sio_alone_is_trained(arguments, config, capsys):
    """A change that does not concern the baseline keeps the one that is there."""

    def checkpoints():
        return {path: path.stat().st_mtime_ns for path in config.run_dir.glob("train-*/checkpoint/model.safetensors")}

    before = checkpoints()
    run(arguments, capsys)
    after = checkpoints()
    assert before.items() <= after.items()
    (trained,) = after.keys() - before.keys()
    assert trained.parents[1].name.startswith("train-sio-seed0-")


def test_the_state_of_a_run(finished, capsys):
    _, config, _ = finished
    assert ["status", "runs/digits"] in COMMANDS
    told = run(["status", str(config.run_dir)], capsys).err
    assert all(stage in told for stage in ("prepare", "fit-generator", "generate", "train", "evaluate", "report"))
    assert ["logs", "runs/digits", "--level", "warning"] in COMMANDS
    told = run(["logs", str(config.run_dir), "--level", "warning"], capsys).err
    assert "stage_begun" not in told


def test_commands_on_a_folder_of_pictures(tmp_path, capsys, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, level in (("train/cat", 60), ("train/dog", 160), ("near_ood/fox", 110)):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        for index in range(30):
            pixels = np.clip(rng.normal(level, 30, (40, 36, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / folder / f"{index}.png")
    commands = [arguments for arguments in COMMANDS if "mine.yaml" in arguments]
    assert [stage for stage, *_ in commands] == ["config", "config", "run"]
    for arguments in commands:
        # The closed form, as training the other one is tested elsewhere.
        small = [*(value for value in tiny if not value.startswith("tune.")), "fit_generator.kind=gaussian"]
        extra = (
            small
            if arguments[0] == "config"
            else ["output_dir=runs", "evaluate.detectors=[msp,energy]", "train.arms=[sio]"]
        )
        where = arguments.index(">") if ">" in arguments else len(arguments)
        run([*arguments[:where], *extra, *arguments[where:]], capsys)
    assert (tmp_path / "runs" / "mine" / "report.html").stat().st_size > 10_000


def test_commands_on_image_sets(finished, gaussian_generator, tmp_path, capsys, monkeypatch):
    _, config, _ = finished
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    Image.new("RGB", (40, 36), "teal").save(tmp_path / "pictures" / "cat" / "1.png")
    names = {
        "runs/digits": str(config.run_dir),
        "SET": synthetic_set_uri(config),
        "REAL": str(prepare_place(config).folder / "id" / "val"),
        "TRAIN": str(prepare_place(config).folder / "id" / "train"),
        "CHECKPOINT": str(train_runs(config)[0].place.folder / "checkpoint"),
        "s3://bucket/imagenet-256": str(tmp_path / "imagenet-256"),
        "generate.output=s3://bucket/imagenet-256": f"generate.output={tmp_path / 'imagenet-256'}",
    }
    small = [
        f"generate.generator={gaussian_generator}",
        *("generate.num_images=50", "generate.num_classes=3", "generate.image_size_px=null", "generate.dtype=float32"),
        *("generate.gpus_per_actor=0", f"output_dir={tmp_path}"),
    ]
    commands = [arguments for arguments in COMMANDS if arguments[0] in ("plan", "generate", "images", "quality")]
    assert len(commands) == 8
    for arguments in commands:
        extra = small if arguments[0] == "generate" else []
        run([names.get(argument, argument) for argument in arguments] + extra, capsys)
    with Image.open("sheet.png") as sheet:
        assert sheet.height > 100
    assert len(list(Path("tars").glob("*.tar"))) > 1
    assert list(tmp_path.glob("quality-*/quality.png"))
