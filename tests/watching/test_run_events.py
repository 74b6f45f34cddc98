"""Events of a run: each a whole line of JSON with its labels, whatever dies, fills up or is secret."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from sio_ray.config import load_config
from sio_ray.errors import TrainingError
from sio_ray.stages.record import run_once
from sio_ray.training.side_by_side import side_by_side
from sio_ray.watching import events
from sio_ray.watching.context import bound, bound_to_run
from sio_ray.watching.events import EVENTS_NAME, problems_of, read_events, tell


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / EVENTS_NAME).read_text().splitlines()]


def test_an_event_has_time_level_name_the_labels_that_are_bound_and_its_own_fields(tmp_path: Path) -> None:
    with bound_to_run(tmp_path, on_stderr=False, run="digits", stage="generate"):
        tell("shard_done", shard=7, seconds=1.5, reason=None)
        with bound(trial=3):
            tell("shard_failed", "no memory", level="warning", shard=8, loss=float("nan"))
    first, second = lines(tmp_path)
    assert first.pop("time") <= second.pop("time")
    labels = {"run": "digits", "stage": "generate"}
    assert first == {"level": "info", "event": "shard_done", **labels, "shard": 7, "seconds": 1.5}
    said = {"shard": 8, "loss": None, "message": "no memory"}
    assert second == {"level": "warning", "event": "shard_failed", **labels, "trial": 3, **said}
    assert list(read_events(tmp_path)) == lines(tmp_path)
    assert [event["event"] for event in problems_of(tmp_path)] == ["shard_failed"]


def test_a_stage_is_told_of_from_begin_to_end(tmp_path: Path) -> None:
    config = load_config("digits")
    for fail in (TrainingError("s3://user:hidden@host/set is gone\nand more"), None):

        def work(folder: Path, fail: TrainingError | None = fail) -> dict:
            tell("at_work")
            if fail is not None:
                raise fail
            return {}

        if fail is not None:
            with pytest.raises(TrainingError):
                run_once("train", tmp_path / "train-0", {}, config, work)
        else:
            run_once("train", tmp_path / "train-0", {}, config, work)
    told = lines(tmp_path)
    names = ["stage_begun", "at_work", "stage_failed", "stage_begun", "at_work", "stage_done"]
    assert [event["event"] for event in told] == names
    assert {(event["run"], event["stage"]) for event in told} == {("digits", "train")}
    assert (told[2]["level"], told[2]["error"]) == ("error", "TrainingError")
    assert told[2]["message"] == "s3://user:***@host/set is gone", "without the secret, in one line"


def test_events_go_to_standard_error_too_where_that_is_asked_for(tmp_path: Path, monkeypatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(events, "console", Console(file=text, width=40, color_system=None))
    with bound_to_run(tmp_path, on_stderr=True, run="[bold]digits"):
        tell("shard_done", "words that are longer than a line of the terminal is wide")
    assert [json.loads(line) for line in text.getvalue().splitlines()] == lines(tmp_path)


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    with bound_to_run(tmp_path, on_stderr=False):
        tell("first")
        with (tmp_path / EVENTS_NAME).open("ab") as file:
            file.write(b'{"time": "2026-11-28T12:00:00+00:00", "lev')
        tell("second")
        tell("third")
    assert [event["event"] for event in read_events(tmp_path)] == ["first", "second", "third"]


@pytest.mark.parametrize(
    "line", [b"[1]\n", b'{"level": "info"}\n', b'{"time": 1, "level": "info", "event": "x"}\n', b"\xff\n", b"[" * 9000]
)
def test_a_line_that_is_no_event_is_passed_over(tmp_path: Path, line: bytes) -> None:
    (tmp_path / EVENTS_NAME).write_bytes(line)
    assert list(read_events(tmp_path)) == []


def test_lines_of_many_writers_do_not_mix(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        with bound_to_run(tmp_path, on_stderr=False, writer=writer):
            for number in range(100):
                tell("event", number=number, padding="x" * 3000)

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted((event["writer"], event["number"]) for event in lines(tmp_path))
    assert found == [(writer, number) for writer in range(8) for number in range(100)]


def test_a_kill_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import itertools, pathlib, sys\n"
        "from sio_ray.watching.context import bound_to_run\n"
        "from sio_ray.watching.events import tell\n"
        "with bound_to_run(pathlib.Path(sys.argv[1]), on_stderr=False):\n"
        "    for number in itertools.count():\n"
        "        tell('event', number=number)\n"
        "        print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [event["number"] for event in lines(tmp_path)][:50] == told


def test_jobs_side_by_side_know_what_is_bound_and_bind_for_themselves_alone(tmp_path: Path) -> None:
    def job(seed: int) -> None:
        with bound(seed=seed):
            tell("at_work")

    with bound_to_run(tmp_path, on_stderr=False, run="digits"):
        side_by_side([lambda: job(0), lambda: job(1)], limit=2)
        tell("end")
    assert sorted((event["run"], event.get("seed", -1)) for event in lines(tmp_path)) == [
        *(("digits", seed) for seed in (-1, 0, 1))
    ]


def test_a_folder_that_takes_no_event_ends_no_work_and_is_told_of_once(tmp_path: Path, monkeypatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(events, "console", Console(file=text, width=400, color_system=None))
    (tmp_path / "run").write_text("in the way")
    with bound_to_run(tmp_path / "run", on_stderr=False):
        tell("first")
        tell("second")
    assert text.getvalue().count("\n") == 1
    assert f"events cannot be written to {tmp_path / 'run' / EVENTS_NAME} (" in text.getvalue()


def test_without_a_run_an_event_goes_to_pythons_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, logger="sio_ray"):
        tell("shard_done", "well", shard=7)
    (record,) = caplog.records
    assert (record.getMessage(), record.sio_ray) == (
        "shard_done shard=7 message=well",
        {"event": "shard_done", "shard": 7, "message": "well"},
    )
    assert list(tmp_path.iterdir()) == []
