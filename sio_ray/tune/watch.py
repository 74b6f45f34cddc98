"""What a search looks like while it runs: a live table on a terminal, a line per trial elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, get_args

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sio_ray.config import TuneConfig
from sio_ray.progress import console
from sio_ray.search.goal import Goal
from sio_ray.search.trial import Status, Trial, TrialResult
from sio_ray.watching import events, metrics

#: Rows of the live table: what fits beside the rest of a small terminal.
_NUM_ROWS = 10

#: Metric to its name in the head of a column, and in a sentence.
TITLES = {"near_auroc": "near", "far_auroc": "far", "mean_auroc": "near+far", "val_accuracy": "ID acc."}
NAMES = {
    "near_auroc": "near-OOD AUROC",
    "far_auroc": "far-OOD AUROC",
    "mean_auroc": "mean of near- and far-OOD AUROC",
    "val_accuracy": "ID accuracy",
}


class Watch:
    """Keeps the state of a search for people, metrics and events; called from Tune's thread, drawn from another.

    Args:
        section: of the config.
        num_trials: as far as is known.
    """

    def __init__(self, section: TuneConfig, num_trials: int) -> None:
        self._section, self._goal = section, Goal.of(section)
        self._metric = section.objectives[0]
        self._num_trials = num_trials
        self._trials: dict[int, Trial] = {}
        self._results: dict[int, TrialResult] = {}
        self._running: dict[int, Mapping[str, Any]] = {}
        self._started_s = time.monotonic()
        self._num_new, self._lock = 0, threading.Lock()

    def start(self, trial: Trial) -> None:
        """A trial begins to run; one that is trained again counts when it has ended once more."""
        with self._lock:
            self._results.pop(trial.index, None)
            self._trials[trial.index] = trial
            self._running[trial.index] = {}
        events.tell("trial_begun", trial=trial.index, arm=trial.arm, phase=trial.phase, values=trial.values)
        self._show_states()

    def validated(self, index: int, figures: Mapping[str, Any]) -> None:
        """A running trial was judged."""
        with self._lock:
            self._running[index] = figures
        told = {name: figures[name] for name in ("step", "loss", *TITLES) if name in figures}
        events.tell("trial_validated", trial=index, **told)
        _show_scores(told, "newest")

    def end(self, trial: Trial, result: TrialResult, num_trials: int) -> None:
        """A trial has ended, now or in an earlier run of the same search."""
        with self._lock:
            is_new = self._running.pop(trial.index, None) is not None
            self._trials[trial.index], self._results[trial.index] = trial, result
            self._num_trials, self._num_new = num_trials, self._num_new + is_new
            best = self._best()
            shown = [("baseline", 0)] if best is None else [("baseline", 0), ("best", best)]
        if is_new and not console.is_terminal:
            console.print(f"  {self._line(trial, result)}", markup=False, soft_wrap=True)
        if is_new:
            self._tell_of_end(trial, result)
        for name, index in shown:
            if (found := self._results.get(index)) is not None and found.value(self._metric) is not None:
                _show_scores(found.curve[-1].summary(), name)
        metrics.show("sio_progress_ratio", len(self._results) / num_trials, part="trials")
        self._show_states()

    def _tell_of_end(self, trial: Trial, result: TrialResult) -> None:
        metrics.count("sio_trial_seconds_total", result.train_s, part="train")
        metrics.count("sio_trial_seconds_total", result.judge_s, part="judge")
        value = result.value(self._metric)
        events.tell(
            "trial_ended",
            result.error or "",
            level="info" if result.status in ("done", "stopped") else "warning",
            **{"trial": trial.index, "status": result.status, self._metric: value, "wall_s": round(result.wall_s, 3)},
        )

    def _show_states(self) -> None:
        ended = Counter(result.status for result in self._results.values())
        for state, number in {
            "running": len(self._running),
            **{name: ended[name] for name in get_args(Status)},
        }.items():
            metrics.show("sio_trials", number, state=state)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the table on a terminal until the end."""
        if not console.is_terminal:
            yield
            return
        with Live(get_renderable=self.table, console=console, refresh_per_second=2, transient=True):
            yield

    def table(self) -> RenderableType:
        """The head line, the running trials and the best so far."""
        with self._lock:
            rows = Table(box=None, pad_edge=False)
            fields = list(dict.fromkeys(key for trial in self._trials.values() for key in trial.values))
            titles = (TITLES[self._metric], TITLES["val_accuracy"])
            for name in ("trial", *(short(field) for field in fields), *titles, "state"):
                rows.add_column(name, justify="left" if name in ("trial", "state") else "right")
            ranked = sorted(self._results, key=self._rank)
            for index in [*sorted(self._running), *ranked][:_NUM_ROWS]:
                rows.add_row(*self._cells(index, fields), style="dim" if index == 0 else "")
            return Group(Text(f"  {self._head()}"), rows)

    def _rank(self, index: int) -> float:
        value = self._results[index].value(self._metric)
        return 0.0 if value is None else -value

    def _cells(self, index: int, fields: list[str]) -> list[str]:
        trial, result = self._trials[index], self._results.get(index)
        values = [f"{trial.values.get(field, '')}" for field in fields]
        if result is None:
            figures = self._running[index]
            done = figures.get("step", 0)
            return [self._name(trial), *values, *_percents(figures, self._metric), f"running, {done:,} steps"]
        summary = result.curve[-1].summary() if result.value(self._metric) is not None else {}
        return [self._name(trial), *values, *_percents(summary, self._metric), result.status]

    def _name(self, trial: Trial) -> str:
        if trial.phase == "confirm":
            return "confirm " + ("baseline" if trial.arm == "baseline" else "best")
        return "baseline" if trial.index == 0 else str(trial.index)

    def _head(self) -> str:
        done = len(self._results)
        head = f"{done} of {self._num_trials} trials"
        best = self._best()
        if best is not None:
            most, base = (self._results[index].value(self._metric) for index in (best, 0))
            if most is not None and base is not None:
                head += f", best {NAMES[self._metric]} {100 * most:.2f} ({100 * (most - base):+.2f} over the baseline)"
        if self._num_new:
            left = max(0, self._num_trials - done) * (time.monotonic() - self._started_s) / self._num_new
            head += f", eta {timedelta(seconds=round(left))}"
        return head

    def _best(self) -> int | None:
        """The best trial so far, 0 while that is the baseline; None before the baseline has ended."""
        last = self._section.num_validations  # segments of a population that end earlier are no whole runs
        ended = {
            index: result
            for index, result in self._results.items()
            if self._trials[index].phase == "search" and self._trials[index].last == last
        }
        return self._goal.best(ended, [index for index in sorted(ended) if index]) if 0 in ended else None

    def _line(self, trial: Trial, result: TrialResult) -> str:
        values = ", ".join(f"{short(key)} {value}" for key, value in trial.values.items())
        name = self._name(trial)
        what = f"{name if name[0].isalpha() else 'trial ' + name}" + (f" ({values})" if values else "")
        if result.value(self._metric) is None:
            return f"{what} {result.status}: {result.error}; {self._head()}"
        point = result.curve[-1]
        figures = ", ".join(
            f"{NAMES[metric]} {100 * point.mean(metric):.2f}"
            for metric in dict.fromkeys([self._metric, "val_accuracy"])
        )
        return f"{what} {result.status}: {figures}; {self._head()}"


def short(field: str) -> str:
    """A dotted field without its section, for the head of a column."""
    return field.removeprefix("train.").removeprefix("evaluate.detector_options.")


def _show_scores(figures: Mapping[str, Any], of: str) -> None:
    for metric in TITLES:
        if metric in figures:
            metrics.show("sio_trial_score_ratio", figures[metric], metric=metric, of=of)


def _percents(figures: Mapping[str, Any], metric: str) -> list[str]:
    return [f"{100 * figures[name]:.2f}" if name in figures else "" for name in (metric, "val_accuracy")]
