"""Progress of the driver's counts: bars on a terminal, a line now and then elsewhere, and a metric of each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from sio_ray.watching import metrics

#: Everything for people goes to standard error; standard output is for `--json`.
console = Console(stderr=True, highlight=False)

#: Where standard error is no terminal, a long count says so often how far it is.
_SAY_PROGRESS_S = 30.0


def plain(text: str) -> str:
    """Text that does nothing to a terminal, whatever a folder's name, a file or another's job holds."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def progress_bars() -> Progress:
    """Bars with count and ETA that fit 80 columns; they draw nothing where standard error is no terminal."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", table_column=Column()),  # alone may wrap, so that no figure is cut
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class CountProgress:
    """How far one long count is: a bar on a terminal, and a line now and then where there is none (a job's log).

    Args:
        title: of the count.
        total: where it ends.
        unit: of what is counted.
        bars: that it is one of.
        speed_in_bar: whether the bar has room for the speed; a line has.
    """

    def __init__(self, title: str, total: int, unit: str, bars: Progress, *, speed_in_bar: bool = True) -> None:
        self._title, self._total, self._unit, self._bars = title, total, unit, bars
        self._speed_in_bar = speed_in_bar
        self._task = bars.add_task(escape(title), total=total, unit=unit, note="")
        self._done = self._new = 0
        self._start_s = self._said_s = time.monotonic()

    def start(self, worked_s: float) -> None:
        """The work has begun so many seconds ago; what was before was waiting, and counts for no speed."""
        self._start_s = time.monotonic() - worked_s

    def advance(self, count: int, *, note: str = "", is_new: bool = True) -> None:
        """Count more.

        Args:
            count: how many.
            note: a few words on the state.
            is_new: they were done now, so they count for the speed.
        """
        self.reach(self._done + count, num_new=count if is_new else 0, note=note)

    def reach(self, done: int, *, num_new: int, note: str = "") -> None:
        """Set the count; it may have gone back.

        Args:
            done: of all.
            num_new: how many were done now, so they count for the speed.
            note: a few words on the state.
        """
        self._done = done
        self._new += num_new
        now_s = time.monotonic()
        speed = self._new / (now_s - self._start_s) if self._new else 0.0
        words = " ".join(word for word in (_per_second(speed), note) if word)
        self._bars.update(self._task, completed=done, note=words if self._speed_in_bar else note)
        if self._total:
            metrics.show("sio_progress_ratio", done / self._total, part=self._title)
        if self._bars.disable and speed and now_s - self._said_s >= _SAY_PROGRESS_S:
            self._said_s = now_s
            eta = str(timedelta(seconds=round((self._total - done) / speed)))
            console.print(
                f"  {self._title}: {done:,} of {self._total:,} {self._unit}, {words}, eta {eta}",
                markup=False,
                soft_wrap=True,
            )


def _per_second(speed: float) -> str:
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s" if speed else ""


@contextmanager
def count_progress(title: str, total: int, unit: str) -> Iterator[CountProgress]:
    """Show the progress of one long count."""
    with progress_bars() as bars:
        yield CountProgress(title, total, unit, bars)
