"""Every command of docs/cluster.md exists and its config loads; every file and field that it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
from markdown_commands import code_blocks, read_document, sio_ray_commands

from sio_ray.cli import app
from sio_ray.config import STAGES, load_config
from sio_ray.config.loading import dotted_keys
from sio_ray.jobs.client import find_address
from sio_ray.jobs.travel import check_travels
from sio_ray.watching.metrics import METRICS

DOCS = read_document("docs/cluster.md")
ROOT = Path(__file__).parents[1]


#: Those of the README that ask a cluster; its others are run by test_readme_commands.py.
ON_A_CLUSTER = [each for each in sio_ray_commands(read_document("README.md")) if each[0] in ("submit", "jobs")]


@pytest.mark.parametrize("arguments", [*sio_ray_commands(DOCS), *ON_A_CLUSTER], ids=" ".join)
def test_every_command_exists_and_takes_its_arguments(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    rest = arguments
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    given = command.make_context(command.name, list(rest)).params
    if arguments[0] == "submit":
        assert given["stage"] in (*STAGES, "run")
        assert find_address(given["address"]) == "http://HEAD:8265"
        check_travels(load_config(given["config"], given["overrides"]))
    if arguments[0] in (*STAGES, "run"):
        load_config(arguments[1], arguments[2:])


def test_jobs_that_are_submitted_are_there_with_configs_that_load() -> None:
    text = "".join(code_blocks(DOCS, "text")).replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("ray job submit")]
    program, script, preset, *overrides = shlex.split(line.split(" -- ")[1])
    assert (program, (ROOT / script).is_file()) == ("python", True)
    assert load_config(preset, overrides).cluster.address == "auto"


def test_every_metric_is_listed_as_the_table_has_it() -> None:
    rows = re.findall(r"^\| `(sio_\w+)` \| (.*) \| (.*) \|$", DOCS, re.MULTILINE)
    tags = {name: ", ".join(f"`{tag}`" for tag in metric.tags) for name, metric in METRICS.items()}
    assert rows == [(name, tags[name], metric.description) for name, metric in METRICS.items()]


def test_every_event_that_is_named_is_told_and_every_one_that_is_told_is_named() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "sio_ray").rglob("*.py"))
    told = set(re.findall(r'\btell\(\s*"(\w+)"', sources))
    rows = re.findall(r"^\| (`[\w`, ]+`) \|", DOCS.split("## Watching")[1].split("\n## ")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - METRICS.keys()
    assert named == told


def test_files_and_fields_that_are_named_are_there() -> None:
    for path in re.findall(r"`(jobs/[\w/.]*)`", DOCS):
        assert (ROOT / path).exists(), path
    for field in re.findall(r"`((?:train|generate|evaluate|cluster|tune)\.\w+)(?:=[^`]*)?`", DOCS):
        assert field in dotted_keys(), field
    assert "sio-ray:0.1.0-ray2.60.0" in (ROOT / "jobs" / "kuberay" / "run.yaml").read_text()


def test_fields_stand_in_for_the_options_that_submit_does_not_take() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    tune, submit = ({parameter.name for parameter in commands[name].params} for name in ("tune", "submit"))
    fields = {f"tune.{name}" for name in tune - submit} & {*dotted_keys()}
    assert fields == {"tune.space", "tune.num_trials"}
    assert all(f"`{field}`" in DOCS and f"{field}=" in DOCS for field in fields)
