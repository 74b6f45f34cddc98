"""The command: a table of 80 columns, the two files, JSON alone on standard output, and one-line errors."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from quality_samples import pictures, write_checkpoint, write_set

from sio_ray.cli import main
from sio_ray.commands.quality import _set_name


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A synthetic set as `sio-ray generate` lays it out, real sets and a checkpoint, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name, count, seed in (("generate-1/images", 120, 2), ("val", 120, 0), ("train", 60, 1)):
        write_set(tmp_path / name, *pictures(count, seed))
    write_checkpoint(tmp_path / "checkpoint")
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["quality", *arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_all_that_can_be_measured_is_printed_written_and_drawn(study, capsys):
    arguments = ("generate-1/images", "--reference", "val", "--classifier", "checkpoint", "--train", "train")
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0
    written = json.loads((study / "quality-generate-1" / "quality.json").read_text())
    assert json.loads(out) == written
    assert written["verdict"] in " ".join(err.split())
    assert (written["synthetic_set"], written["device"], written["k"]) == ("generate-1/images", "cpu", 5)
    assert {row["name"] for row in written["classes"]} == {"dark", "grey", "bright"}
    assert all(len(line) <= 80 for line in err.splitlines())
    assert "\N{HORIZONTAL ELLIPSIS}" not in err
    with Image.open(study / "quality-generate-1" / "quality.png") as picture:
        assert picture.width == 1440


@pytest.mark.parametrize(
    ("given", "measured", "absent", "note"),
    [
        (("--classifier", "checkpoint"), "recall", "copies", "No --train, so copies of training pictures"),
        (("--train", "train"), "copies", "recall", "No --classifier, so labels, fidelity and variety"),
    ],
)
def test_what_was_not_measured_is_said_and_has_no_column(study, capsys, given, measured, absent, note):
    code, out, err = run(capsys, "generate-1/images", "--reference", "val", *given, "--limit", "60", "--output", "here")
    assert (code, out) == (0, "")
    heading = err.split("class")[0].splitlines()[-1]
    assert measured in heading
    assert absent not in heading
    assert note in err
    assert "60 synthetic pictures" in err
    assert sorted(path.name for path in (study / "here").iterdir()) == ["quality.json", "quality.png"]


def test_a_mistake_is_one_line_and_leaves_no_folder(study, capsys):
    code, out, err = run(capsys, "generate-1/images", "--reference", "val")
    assert (code, out) == (2, "")
    assert err.strip() == (
        "error: --classifier or --train must be given, got None; "
        "without both, only the pictures per class could be counted."
    )
    assert not (study / "quality-generate-1").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(study, capsys):
    (study / "file").write_text("")
    code, _, err = run(capsys, "generate-1/images", "--reference", "val", "--train", "train", "--output", "file/here")
    assert code == 2
    assert "error: --output must be a folder that can be written, got 'file/here' (" in err


def test_help_fits_a_screen_and_shows_an_example(study, capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert len(out.splitlines()) <= 30
    assert "sio-ray quality" in out.split("Example:")[1]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("runs/digits/generate-1f/images", "generate-1f"),
        ("runs/digits/generate-1f/images/", "generate-1f"),
        ("s3://bucket/mine", "mine"),
        ("images", "images"),
        ("../images", "images"),
    ],
)
def test_the_output_is_named_after_the_set(uri, name):
    assert _set_name(uri) == name
