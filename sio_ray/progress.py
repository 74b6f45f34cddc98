"""Progress bars of the driver, fed by futures or by workers through one small actor; quiet off a terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Everything for people goes to standard error; standard output is for `--json`.
console = Console(stderr=True, highlight=False)


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
