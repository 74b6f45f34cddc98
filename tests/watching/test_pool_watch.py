"""What a pool tells: every shard once, every attempt that failed, and actors by their place."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from sio_ray.pool import watch as pool_watch
from sio_ray.pool.messages import (
    ActorEnded,
    ActorOpened,
    UnitDone,
    UnitFailed,
    UnitPutBack,
    UnitSetAside,
    UnitUnusable,
)
from sio_ray.pool.watch import PoolWatch
from sio_ray.watching.context import bound_to_run
from sio_ray.watching.events import read_events


@dataclass(frozen=True)
class Shard:
    digest: str = ""


class Bar:
    """Of the driver."""

    def __init__(self) -> None:
        self.done, self.new, self.note = 0, 0, ""

    def advance(self, count: int, *, note: str = "", is_new: bool = True) -> None:
        self.done += count
        self.new += count * is_new
        self.note = note


def told(tmp_path: Path, *news, adopted=()) -> tuple[Bar, list[dict]]:
    bar = Bar()
    with (
        bound_to_run(tmp_path, on_stderr=False, run="digits", stage="generate"),
        PoolWatch(
            bar,
            images=lambda shard: 10,
            seconds=lambda shard: {"sample": 2.0, "write": 0.25},
            labels=lambda unit_id: {"shard": unit_id},
            adopted=adopted,
        ) as watch,
    ):
        for each in news:
            watch.hear(each)
    return bar, [
        {name: value for name, value in event.items() if name not in ("time", "run", "stage")}
        for event in read_events(tmp_path)
    ]


def test_shards_are_counted_by_what_came_of_them(tmp_path: Path, recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(pool_watch, "console", Console(file=text, width=80))
    bar, events = told(
        tmp_path,
        ActorOpened(0),
        UnitDone(0, 5, Shard(), 3.0),
        UnitFailed(0, 6, "no [memory]"),
        UnitPutBack(6),
        UnitFailed(0, 6, "no memory"),
        UnitSetAside(6, "no memory"),
        UnitDone(0, 7, Shard(), 3.0),
    )
    outcomes = {outcome: recorded.of("sio_shards_total", outcome=outcome) for outcome in ("done", "failed", "retried")}
    assert outcomes == {"done": 2, "failed": 2, "retried": 1}
    assert recorded.of("sio_shards_total", outcome="set_aside") == 1
    assert recorded.of("sio_images_total", actor="0", run="digits", stage="generate") == 20
    seconds = {part: recorded.of("sio_shard_seconds_total", part=part) for part in ("sample", "write")}
    assert seconds == {"sample": 4.0, "write": 0.5}
    assert (bar.done, bar.new, bar.note) == (20, 20, "1 actors, 1 retried, 1 set aside")
    assert text.getvalue() == "  shard 6 failed: no [memory]\n", "the first of them, and that once"
    spent = {"sample_s": 2.0, "write_s": 0.25}
    assert events == [
        {"level": "info", "event": "actor_opened", "actor": 0, "actors": 1},
        {"level": "info", "event": "shard_done", "shard": 5, "actor": 0, "images": 10, **spent},
        {"level": "warning", "event": "shard_failed", "shard": 6, "actor": 0, "message": "no [memory]"},
        {"level": "info", "event": "shard_retried", "shard": 6},
        {"level": "warning", "event": "shard_failed", "shard": 6, "actor": 0, "message": "no memory"},
        {"level": "error", "event": "shard_set_aside", "shard": 6, "message": "no memory"},
        {"level": "info", "event": "shard_done", "shard": 7, "actor": 0, "images": 10, **spent},
    ]


def test_what_was_there_already_is_not_counted_as_done_now_unless_it_is_done_anew(tmp_path: Path, recorded) -> None:
    bar, events = told(
        tmp_path,
        ActorOpened(0),
        UnitDone(0, 1, Shard(), 0.1),
        UnitUnusable(2, "torn"),
        UnitPutBack(2),
        UnitDone(0, 2, Shard(), 3.0),
        adopted=(1, 2),
    )
    assert (bar.done, bar.new) == (20, 10)
    assert recorded.of("sio_shards_total", outcome="done") == 1
    assert [event["shard"] for event in events if event["event"] == "shard_done"] == [2]
    assert [event["message"] for event in events if event["event"] == "shard_unusable"] == ["torn"]


def test_actors_are_told_by_the_place_that_they_take_so_that_labels_are_no_more_than_the_pool_is_large(
    tmp_path: Path, recorded
) -> None:
    _, events = told(
        tmp_path,
        *(ActorOpened(0), ActorOpened(1), ActorOpened(2)),
        *(ActorEnded(1, "its node died"), ActorEnded(0, "no memory"), ActorEnded(9, "never opened")),
        *(ActorOpened(3), ActorOpened(4), ActorOpened(5)),
        *(ActorEnded(5, "recycled after 9 units", is_recycled=True), ActorOpened(6)),
        *(UnitDone(3, 0, Shard(), 1.0), UnitDone(4, 1, Shard(), 1.0), UnitDone(5, 2, Shard(), 1.0)),
        UnitDone(1, 3, Shard(), 1.0),  # whose answer was on its way when it died
    )
    places = [event["actor"] for event in events if event["event"] == "actor_opened"]
    assert places == [0, 1, 2, 0, 1, 3, 3]
    done = [event["actor"] for event in events if event["event"] == "shard_done"]
    assert done == [0, 1, 3, 1]
    assert recorded.of("sio_actor_deaths_total") == 3, "the recycled one did nothing wrong"
    assert [event["level"] for event in events if event["event"] == "actor_recycled"] == ["info"]
    assert recorded.of("sio_actors") == 0, "at the end"
    died = [(event.get("actor"), event["actors"]) for event in events if event["event"] == "actor_died"]
    assert died == [(1, 2), (0, 1), (None, 1)]
