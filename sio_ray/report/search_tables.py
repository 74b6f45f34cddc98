"""The rows of a search's tables: trials, fields of the space, failures, cost, and the best's schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from sio_ray.report.search_result import (
    FAILED,
    Search,
    Trial,
    figure_text,
    spec_text,
    spread_text,
    value_text,
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table that sorts.

    Attributes:
        text: what it shows.
        sort: what it sorts by; empty where there is nothing, which stays last.
        spread: std over seeds, shown after the text.
    """

    text: str
    sort: str
    spread: str = ""


@dataclass(frozen=True)
class TrialRow:
    """A trial in the table of all.

    Attributes:
        index: of the trial.
        marks: what is special about it, such as `best`.
        status: how it ended.
        segment: generation and parent of a population's segment.
        values: of the fields of the space.
        figures: of the metrics of the search.
        wall_s: its seconds.
    """

    index: int
    marks: list[str]
    status: str
    segment: list[Cell]
    values: list[Cell]
    figures: list[Cell]
    wall_s: Cell


@dataclass(frozen=True)
class FieldRow:
    """A field of the space.

    Attributes:
        name: dotted.
        spec: how it was searched, in words.
        best: its value in the best trial, at the end of its schedule for a population; a dash where there is none.
        importance: share of the variance of the objective that it explains; None if not known.
    """

    name: str
    spec: str
    best: str
    importance: float | None


def trial_rows(search: Search) -> list[TrialRow]:
    """Every trial, those that confirm the best among them."""
    return [
        TrialRow(
            trial["index"],
            _marks(search, trial),
            _status(trial),
            [_number(trial.get(key)) for key in ("generation", "parent")] if search.is_population else [],
            [_value(search, trial, field) for field in search.result["fields"]],
            [_figure(trial, metric) for metric in search.metrics],
            _seconds(trial),
        )
        for trial in search.trials
    ]


def field_rows(search: Search) -> list[FieldRow]:
    """Every field of the space, the most important first."""
    importance = search.result["importance"] or {}
    values = search.best["values"] if search.best else {}
    rows = [
        FieldRow(
            field,
            spec_text(spec),
            value_text(values[field]) if field in values else "\N{EN DASH}",
            importance.get(field),
        )
        for field, spec in search.result["fields"].items()
    ]
    return sorted(rows, key=lambda row: -(row.importance or 0.0))


def failed_rows(search: Search) -> list[tuple[Trial, str]]:
    """Trials without a figure, each with its values in words."""
    named = set(search.result["failed"])
    failed = [trial for trial in search.trials if trial["index"] in named or trial["status"] in FAILED]
    return [(trial, search.values_text(trial) or "baseline") for trial in failed]


def cost_rows(search: Search) -> list[tuple[str, float]]:
    """What took how many seconds, summed over trials."""
    cost = search.result["cost"]
    overhead = cost["overhead_s_per_trial"]
    rows = [
        ("Training", cost["train_s"]),
        ("Judging", cost["judge_s"]),
        ("Generation of synthetic sets", cost["generate_s"]),
        ("Overhead", None if overhead is None else overhead * cost["num_trained"]),
    ]
    return [(name, float(seconds)) for name, seconds in rows if seconds is not None]


def schedule_rows(search: Search) -> list[tuple[Trial, int, int, list[str]]]:
    """(segment, first step, last step, values) of the run that led to the best of a population."""
    if search.best is None or not search.is_population:
        return []
    rows, start = [], 0
    for segment in search.lineage(search.best):
        end = segment["curve"][-1]["step"] if segment["curve"] else start
        values = [value_text(segment["values"].get(field)) for field in search.result["fields"]]
        rows.append((segment, start, end, values))
        start = end
    return rows


def best_yaml(search: Search) -> str:
    """What the best changes in the config, as YAML that a config file can hold."""
    nested: dict[str, Any] = {}
    for key, value in search.result["best_values"].items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)


def _marks(search: Search, trial: Trial) -> list[str]:
    marks = []
    if trial["phase"] == "confirm":
        arm = "baseline" if trial["arm"] == "baseline" else "best"
        return [f"{arm}, fresh seeds"]
    if trial["index"] == 0:
        marks.append("baseline")
    if search.best is trial:
        marks.append("best")
    if trial["index"] in search.result["pareto"]:
        marks.append("front")
    if trial["status"] == "done" and trial.get("is_feasible") is False:
        marks.append("infeasible")
    return marks


def _status(trial: Trial) -> str:
    if trial["status"] == "stopped" and trial["curve"]:
        return f"stopped at {trial['curve'][-1]['step']}"
    return str(trial["status"])


def _value(search: Search, trial: Trial, field: str) -> Cell:
    if field not in trial["values"]:
        return Cell("\N{EN DASH}", "")
    value = trial["values"][field]
    return Cell(value_text(value), repr(value) if search.is_numeric(field) else value_text(value))


def _figure(trial: Trial, metric: str) -> Cell:
    value = trial.get(metric)
    return Cell(figure_text(metric, value), "" if value is None else f"{value:.8f}", spread_text(trial, metric))


def _number(value: int | None) -> Cell:
    return Cell("\N{EN DASH}", "") if value is None else Cell(str(value), str(value))


def _seconds(trial: Trial) -> Cell:
    seconds = trial.get("wall_s")
    return Cell("\N{EN DASH}", "") if seconds is None else Cell(f"{seconds:.1f}", f"{seconds:.3f}")
