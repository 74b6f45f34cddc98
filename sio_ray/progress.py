"""Progress bars of the driver, fed by futures or by workers through one small actor; quiet off a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Everything for people goes to standard error; standard output is for `--json`.
console = Console(stderr=True, highlight=False)

#: Where standard error is no terminal, a long count says so often how far it is.
_SAY_PROGRESS_S = 30.0


def progress_bars() -> Progress:
    """Bars with count and ETA that fit 80 columns; they draw nothing where standard error is no terminal."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class CountProgress:
    """How far one long count is: a bar on a terminal, and a line now and then where there is none (a job's log)."""

    def __init__(self, title: str, total: int, unit: str, bars: Progress) -> None:
        self._title, self._total, self._unit, self._bars = title, total, unit, bars
        self._task = bars.add_task(escape(title), total=total, unit=unit, note="")
        self._done = self._new = 0
        self._start_s = self._said_s = time.monotonic()

    def advance(self, count: int, *, note: str = "", is_new: bool = True) -> None:
        """Count more.

        Args:
            count: how many.
            note: a few words on the state.
            is_new: they were done now, so they count for the speed.
        """
        self._done += count
        self._new += count if is_new else 0
        now_s = time.monotonic()
        speed = self._new / (now_s - self._start_s) if self._new else 0.0
        words = [f"{speed:,.0f}/s" if speed else "", note]
        self._bars.update(self._task, completed=self._done, note=" ".join(word for word in words if word))
        if self._bars.disable and speed and now_s - self._said_s >= _SAY_PROGRESS_S:
            self._said_s = now_s
            eta = str(timedelta(seconds=round((self._total - self._done) / speed)))
            console.print(
                f"  {self._title}: {self._done:,} of {self._total:,} {self._unit}, {' '.join(words)}, eta {eta}",
                markup=False,
                soft_wrap=True,
            )


@contextmanager
def count_progress(title: str, total: int, unit: str) -> Iterator[CountProgress]:
    """Show the progress of one long count."""
    with progress_bars() as bars:
        yield CountProgress(title, total, unit, bars)


class ProgressBoard:
    """The actor that workers write their progress to and the driver reads."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, dict[str, float]]] = {}

    def update(self, run: str, step: int, point: dict[str, float] | None = None) -> None:
        """Set how far a run is, and its newest point of the training curve if there is one."""
        known = self._rows.get(run, (0, {}))[1]
        self._rows[run] = (step, known if point is None else point)

    def add(self, run: str, point: dict[str, float]) -> None:
        """Count one more step of a run that several workers share, such as the trials of a search."""
        self.update(run, self._rows.get(run, (0, {}))[0] + 1, point)

    def read(self) -> dict[str, tuple[int, dict[str, float]]]:
        """Run to its step and newest point."""
        return self._rows


def _note(point: dict[str, float]) -> str:
    """The newest point of a curve in few words, so that a bar fits 80 columns."""
    words = [f"loss {point['loss']:.2g}"] if "loss" in point else []
    shares = {"val_accuracy": "val", "near_auroc": "near"}
    words += [f"{word} {100 * point[name]:.1f}%" for name, word in shares.items() if name in point]
    return " ".join(words) or "running"


@contextmanager
def watch_runs(totals: dict[str, int], unit: str = "steps") -> Iterator[Any]:
    """Show one bar per run, fed by workers through the board that is yielded.

    Args:
        totals: run to its number of steps.
        unit: what is counted.
    """
    import ray

    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    stop = threading.Event()
    with progress_bars() as bars:
        tasks = {run: bars.add_task(run, total=total, unit=unit, note="waiting") for run, total in totals.items()}

        def poll() -> None:
            while not stop.wait(0.5):
                try:
                    rows = ray.get(board.read.remote(), timeout=5)
                except ray.exceptions.RayError:
                    continue  # the bars are a courtesy; the work itself reports its own failures
                for run, (step, point) in rows.items():
                    bars.update(tasks[run], completed=step, note=_note(point))

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield board
        finally:
            stop.set()
            thread.join(timeout=6)
            ray.kill(board)
