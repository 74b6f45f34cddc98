"""The commands of docs/reproduce-cifar10.md: each is a config whose stages could run, and the dry run begins."""

import pytest
from markdown_commands import code_blocks, read_document, sio_ray_commands

from sio_ray.config import load_config
from sio_ray.generate import generator
from sio_ray.imageset import ImageSet
from sio_ray.methods import METHODS, PAPER_METHODS
from sio_ray.stages.layout import fit_generator_place, prepare_place, run_order, train_runs
from sio_ray.stages.preflight import check
from sio_ray.stages.prepare import prepare
from sio_ray.stages.trainings import trainings

DOC = read_document("docs/reproduce-cifar10.md")
COMMANDS = sio_ray_commands(DOC)
RUNS = [arguments for stage, *arguments in COMMANDS if stage == "run"]


@pytest.mark.parametrize(
    ("preset", "overrides"), [(preset, given) for preset, *given in RUNS], ids=lambda each: str(each)[:40]
)
def test_a_command_is_a_config_that_could_run(preset, overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "find_generator", lambda _: None)  # it would ask the hub
    config = load_config(preset, [*overrides, f"output_dir={tmp_path}"])
    check(config, run_order(config))
    assert config.method_names == tuple(METHODS)
    num_seeds = len(config.train.seeds)
    assert len(train_runs(config)) == 18 * num_seeds


def test_the_other_commands_are_about_the_same_runs():
    others = [arguments for arguments in COMMANDS if arguments[0] != "run"]
    assert [stage for stage, *_ in others] == ["status", "report"]
    (_, *reported) = others[1]
    given = [argument for argument in reported[1:] if not argument.startswith("--")]
    first = load_config(reported[0], given)
    assert prepare_place(first) == prepare_place(load_config(RUNS[0][0], RUNS[0][1:]))
    assert others[0][1] == f"runs/{first.name}"


def test_the_table_of_trainings_is_the_one_that_is_run():
    rows = [line.split("|")[2] for line in DOC.splitlines() if line.startswith("| ") and "score" not in line]
    named = {training.config.train.algorithm for training in trainings(load_config("digits", ["methods=[paper]"]))}
    assert named - {"cross_entropy"} == {name for name in named if any(f"`{name}`" in row for row in rows)}, (
        "every algorithm is named"
    )
    assert f"{18 * 3} networks" in DOC
    assert len(PAPER_METHODS) == 18


def test_the_dry_run_prepares_what_every_method_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (pictures,) = code_blocks(DOC, "python")
    exec(compile(pictures, "docs/reproduce-cifar10.md", "exec"), {})
    (dry_run,) = (arguments for arguments in RUNS if "name=dry_run" in arguments)
    config = load_config(dry_run[0], dry_run[1:])
    prepared = prepare(config)
    train_set = ImageSet(prepared.output / "id/train")
    assert train_set.info.image_shape == (3, 32, 32)
    for name in ("outlier_exposure", "mixing", "near_ood/val/d", "near_ood/test/d"):
        assert len(ImageSet(prepared.output / name))
    assert fit_generator_place(config).folder.parent == tmp_path / "runs" / "dry_run"
