"""Progress: a line now and then where there is no terminal, a bar whose figures are whole on a narrow one."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sio_ray import progress
from sio_ray.progress import CountProgress, count_progress, progress_bars
from sio_ray.training.board import Row, Spent
from sio_ray.training.watch import WatchedRun, _Shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that only the test moves."""
    found = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: found.now_s))
    return found


def on(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, width=80, force_terminal=terminal))
    return text


def test_a_jobs_log_has_a_line_every_half_minute(clock, monkeypatch) -> None:
    text = on(monkeypatch, terminal=False)
    with count_progress("[drawing] images", 3000, "images") as count:
        count.advance(600, is_new=False)
        for _ in range(7):
            clock.now_s += 10
            count.advance(200, note="2 actors")
    assert text.getvalue().splitlines() == [
        "  [drawing] images: 1,200 of 3,000 images, 20/s 2 actors, eta 0:01:30",
        "  [drawing] images: 1,800 of 3,000 images, 20/s 2 actors, eta 0:01:00",
    ]


def test_a_count_that_goes_back_keeps_its_speed_and_a_slow_one_has_digits(clock, monkeypatch) -> None:
    text = on(monkeypatch, terminal=False)
    with progress_bars() as bars:
        count = CountProgress("sio, seed 0", 100, "steps", bars)
        clock.now_s += 20
        count.reach(10, num_new=10, note="loss 1")
        clock.now_s += 20
        count.reach(5, num_new=0, note="loss 2")
    assert text.getvalue() == "  sio, seed 0: 5 of 100 steps, 0.25/s loss 2, eta 0:06:20\n"


def test_a_narrow_terminal_cuts_no_figure(clock, monkeypatch) -> None:
    text = on(monkeypatch, terminal=True)
    with progress_bars() as bars:
        count = CountProgress("drawing images", 1281167, "images", bars)
        clock.now_s += 100
        count.advance(900000, note="64 actors, 3 retried, 1 set aside")
        bars.refresh()
        drawn = Console(file=text, width=80, color_system=None)
        text.seek(0)
        text.truncate()
        drawn.print(bars.get_renderable())
        lines = text.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "900000/1281167 images" in lines[0]
    assert "9,000/s 64 actors, 3 retried, 1 set aside" in " ".join(" ".join(line.split()) for line in lines)


def test_the_bar_of_a_training_run_has_no_room_for_its_speed(clock, monkeypatch) -> None:
    on(monkeypatch, terminal=True)
    with progress_bars() as bars:
        count = CountProgress("baseline, seed 0", 2000, "steps", bars, speed_in_bar=False)
        clock.now_s += 10
        count.reach(100, num_new=100, note="loss 0.31 val 95.1%")
        (task,) = bars.tasks
        assert (task.completed, task.fields["note"]) == (100, "loss 0.31 val 95.1%")


def test_a_run_that_waited_for_its_place_is_as_fast_as_it_is(clock, monkeypatch) -> None:
    text = on(monkeypatch, terminal=False)
    with progress_bars() as bars:
        shown = _Shown("sio, seed 0", WatchedRun(100, 128, {}), bars)
        clock.now_s += 60
        shown.update(Row(4, Spent(4, 1.5, 0.0, 0.5)))
        clock.now_s += 30
        shown.update(Row(64, Spent(64, 30.0, 0.0, 2.0)))
    assert text.getvalue().splitlines() == [
        "  sio, seed 0: 4 of 100 steps, 2/s running, eta 0:00:48",
        "  sio, seed 0: 64 of 100 steps, 2/s running, eta 0:00:18",
    ]
