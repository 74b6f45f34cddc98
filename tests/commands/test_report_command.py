"""The command of the report: which files it writes, what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest
import typer
from report_study import make_data, write_evaluation
from typer.testing import CliRunner

from sio_ray.commands.report import report
from sio_ray.errors import ConfigError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    for name, shift in (("a", 0.3), ("b", -0.3)):
        write_evaluation(folder / name, make_data(shift=shift))
    return folder


def run(*arguments):
    app = typer.Typer()
    app.command()(report)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_one_folder_gets_its_page_beside_its_figures(folders):
    result = run(folders / "a", "--json")
    assert json.loads(result.stdout) == {
        "report": str(folders / "a" / "report.html"),
        "tables": [str(folders / "a" / "report.json")],
    }
    assert "SIO on a" in (folders / "a" / "report.html").read_text()


def test_several_are_compared_and_tables_lie_beside_the_page(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(folders / "a", folders / "b", "--csv", "--latex")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.csv", "comparison.html", "comparison.tex"]
    run(folders / "a", folders / "b", "--output", "deep/mine.html")
    assert "Comparison of 2 runs" in (tmp_path / "deep" / "mine.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.seeds=[0]"], r"^RUN must be given, got None; name a preset"),
        (
            ["digits", "--output", "page.pdf"],
            r"^--output must be a file that ends in .html, got 'page.pdf'; name the page",
        ),
        (["no_such_preset"], r"^config must be a preset \(.*\) or a YAML file, got 'no_such_preset'"),
        (["digits", "train.seed=1"], r"^train.seed must be a field of the config"),
        (["digits", "report.detector=nope"], r"^report.detector must be among evaluate.detectors \(.*, got 'nope'"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)
