"""`sio-ray logs` and what `sio-ray status` says of it: events from the folder alone, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sio_ray.cli import main
from sio_ray.watching.context import bound, bound_to_run
from sio_ray.watching.events import EVENTS_NAME, tell


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run in which a shard failed."""
    folder = tmp_path / "digits"
    (folder / "generate-0123456789ab").mkdir(parents=True)
    with bound_to_run(folder, on_stderr=False, run="digits"):
        with bound(stage="prepare"):
            tell("stage_done", wall_s=1.25)
        with bound(stage="generate"):
            tell("shard_retried", "its actor died\x1b[2J", level="warning", shard=7, values={"a": 1})
            tell("stage_failed", "1 of 8 shards failed", level="error", error="GenerationError")
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    assert stop.value.code in (0, None), captured.err
    return captured.out, captured.err


def test_events_are_told_in_a_line_each_without_control_characters(run: Path, capsys) -> None:
    _, text = told(capsys, "logs", str(run))
    done, retried, failed = text.splitlines()
    assert done[19:] == " prepare stage_done wall_s=1.25"
    assert retried[19:] == ' generate shard_retried shard=7 values={"a": 1}: its actor died\N{REPLACEMENT CHARACTER}[2J'
    assert failed[19:] == " generate stage_failed error=GenerationError: 1 of 8 shards failed"


@pytest.mark.parametrize(
    ("options", "events"),
    [
        ([], ["stage_done", "shard_retried", "stage_failed"]),
        (["--level", "warning"], ["shard_retried", "stage_failed"]),
        (["--level", "error"], ["stage_failed"]),
        (["--stage", "prepare"], ["stage_done"]),
        (["--last", "1"], ["stage_failed"]),
        (["--last", "1", "--stage", "prepare", "--level", "info"], ["stage_done"]),
    ],
)
def test_those_that_are_asked_for_as_json(run: Path, capsys, options: list[str], events: list[str]) -> None:
    out, _ = told(capsys, "logs", str(run), "--json", *options)
    assert [json.loads(line)["event"] for line in out.splitlines()] == events
    assert set(out.splitlines()) <= {
        json.dumps(json.loads(line)) for line in (run / EVENTS_NAME).read_text().splitlines()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "loud"], "--level must be one of info, warning, error, got 'loud'; leave it out for all of them."),
        (["--stage", "sleep"], "--stage must be one of prepare, "),
    ],
)
def test_what_cannot_be_asked_for_is_refused(run: Path, capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["logs", str(run), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_events_is_no_run(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["logs", str(tmp_path)])
    assert stop.value.code == 2
    assert f"there is no {tmp_path}/events.jsonl; give the output folder of a run" in capsys.readouterr().err


def test_the_state_of_a_run_that_is_not_done_ends_with_the_last_that_went_wrong(run: Path, capsys) -> None:
    _, text = told(capsys, "status", str(run))
    told_last = text.splitlines()[-2:]
    assert told_last[0] == f"2 warnings and errors (sio-ray logs {run} --level warning), the last:"
    assert told_last[1].endswith(" generate stage_failed error=GenerationError: 1 of 8 shards failed")
    # Without the shard that was retried.
    events = run / EVENTS_NAME
    done, _, failed = events.read_text().splitlines()
    events.write_text(f"{done}\n{failed}\n")
    _, text = told(capsys, "status", str(run))
    assert text.splitlines()[-2] == f"1 warning or error (sio-ray logs {run} --level warning), the last:"
