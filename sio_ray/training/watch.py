"""Shows training runs in the driver: bars, metrics and events, fed by the first worker of each through one actor."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import ray

from sio_ray.progress import CountProgress, progress_bars
from sio_ray.training.board import Board, Row, Spent
from sio_ray.training.loop import Point
from sio_ray.watching import events, metrics

#: So often the driver asks how far the runs are.
_POLL_S = 0.5


@dataclass(frozen=True)
class WatchedRun:
    """A run to show.

    Attributes:
        num_steps: of the whole run.
        images_per_step: over all workers.
        labels: `arm`, `seed` and `member`, of its metrics and events.
    """

    num_steps: int
    images_per_step: int
    labels: Mapping[str, str]


class _Shown:
    """One run as it is shown."""

    def __init__(self, name: str, run: WatchedRun, bars: Any) -> None:
        self._run, self._last, self._note = run, Spent(), "running"
        self._progress = CountProgress(name, run.num_steps, "steps", bars, speed_in_bar=False)

    def update(self, row: Row) -> None:
        """Show what is new."""
        new, labels = row.spent.since(self._last), self._run.labels
        if not self._last.steps and new.steps:
            self._progress.start(row.spent.step_s + row.spent.report_s)  # it may have waited long for a place
        self._last = row.spent
        metrics.count("sio_train_steps_total", new.steps, **labels)
        metrics.count("sio_train_images_total", new.steps * self._run.images_per_step, **labels)
        metrics.count("sio_train_step_seconds_total", new.step_s, **labels)
        metrics.count("sio_train_feed_wait_seconds_total", new.wait_s, **labels)
        metrics.count("sio_train_report_seconds_total", new.report_s, **labels)
        for point in row.points:
            self._note = _note(point)
            metrics.show("sio_train_loss", point["loss"], **labels)
            if "val_accuracy" in point:
                metrics.show("sio_train_val_accuracy_ratio", point["val_accuracy"], **labels)
            told: dict[str, Any] = {**labels, **point}
            events.tell("reported", **told)
        self._progress.reach(row.step, num_new=new.steps, note=self._note)


def _note(point: Point) -> str:
    """The newest point of a curve in few words, so that a bar fits 80 columns."""
    words = [f"loss {point['loss']:.2g}"]
    words += [f"val {100 * point['val_accuracy']:.1f}%"] if "val_accuracy" in point else []
    return " ".join(words)


@contextmanager
def watch_runs(runs: Mapping[str, WatchedRun]) -> Iterator[Any]:
    """Show runs until the end of the block.

    Args:
        runs: by the name under which workers write to the board that is yielded.
    """
    board = ray.remote(num_cpus=0)(Board).remote()
    stop = threading.Event()
    with progress_bars() as bars:
        shown = {name: _Shown(name, run, bars) for name, run in runs.items()}

        def look() -> None:
            try:
                rows = ray.get(board.take.remote(), timeout=5)
            except ray.exceptions.RayError:
                return  # what is shown is a courtesy; the work itself reports its own failures
            for name, row in rows.items():
                shown[name].update(row)

        def poll() -> None:
            while not stop.wait(_POLL_S):
                look()
            look()

        thread = threading.Thread(target=copy_context().run, args=[poll], daemon=True)
        thread.start()
        try:
            yield board
        finally:
            stop.set()
            thread.join(timeout=6)
            ray.kill(board)
