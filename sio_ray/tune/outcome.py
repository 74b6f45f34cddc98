"""What a search found, as JSON values for record, page and tables, and in a few lines for the terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from sio_ray.classifier.schedules import num_steps_of
from sio_ray.config import Config
from sio_ray.progress import console
from sio_ray.search.goal import ACCURACY, paired_gain, pareto_front
from sio_ray.search.optuna_proposals import field_importance
from sio_ray.search.search import Search
from sio_ray.search.space import Space, is_grid, to_json
from sio_ray.search.trial import Trial, TrialResult
from sio_ray.stages.layout import BEST_CONFIG_NAME, SEARCH_PAGE_NAME
from sio_ray.tune.runner import Play
from sio_ray.tune.sets import TrialSets
from sio_ray.tune.watch import NAMES, TITLES, short

#: Rows of the table on the terminal; all are in the files and on the page.
_NUM_ROWS = 15

_FIGURES = ("near_auroc", "far_auroc", "mean_auroc", "val_accuracy", "val_loss")


def outcome_of(
    config: Config, space: Space, search: Search, played: Play, sets: TrialSets, *, wall_s: float
) -> dict[str, Any]:
    """The whole outcome as JSON values; fractions, and None for a number that there is not.

    Args:
        config: of the search.
        space: of the values.
        search: played to its end.
        played: its results.
        sets: of its trials.
        wall_s: seconds of this run of the search.
    """
    section, results, trials = config.tune, played.results, search.trials
    searched = {index: results[index] for index in results if trials[index].phase == "search"}
    finals = {index: result for index, result in searched.items() if trials[index].last == section.num_validations}
    best = search.best(results)
    least = search.goal.least_accuracy(results[0])
    cost = _cost(played, sets, wall_s)
    return {
        "objectives": list(section.objectives),
        "detectors": list(section.detectors),
        "algorithm": "grid" if is_grid(space) and section.algorithm != "pbt" else section.algorithm,
        "stopping": section.stopping,
        "fields": to_json(space),
        "num_steps": played.planned[0].config.train.num_steps,
        "num_validations": section.num_validations,
        "num_seeds": len(section.seeds),
        "trials": [_row(search, trials[index], results[index], results[0]) for index in sorted(results)],
        "best": best,
        "best_values": search.best_values(results, num_steps_of(config.train, sets.num_real)),
        "confirmation": _confirmation(search, results, section.objectives[0]),
        "importance": field_importance(space, trials, finals, section.objectives[0]),
        "pareto": pareto_front(finals, search.goal.traded),
        "constraint": None
        if least is None
        else {"max_accuracy_drop": section.max_accuracy_drop, "least_accuracy": least},
        "failed": sorted(index for index, result in results.items() if result.status == "failed"),
        "cost": cost,
    }


def _row(search: Search, trial: Trial, result: TrialResult, baseline: TrialResult) -> dict[str, Any]:
    usable = result.status in ("done", "stopped")
    last = result.curve[-1].summary() if usable else {}
    row: dict[str, Any] = {
        "index": trial.index,
        "phase": trial.phase,
        "arm": trial.arm,
        "values": dict(trial.values),
        "status": result.status,
        "seeds": list(trial.seeds),
    }
    for metric in _FIGURES:
        row |= {metric: last.get(metric), f"{metric}_std": last.get(f"{metric}_std")}
    row |= {"curve": [point.summary() for point in result.curve]}
    row |= {name: round(getattr(result, name), 3) for name in ("train_s", "judge_s", "wall_s")}
    row |= {"error": result.error, "is_feasible": search.goal.is_feasible(result, baseline)}
    generation = search.generation_of(trial.index)
    return row if generation is None else {**row, "generation": generation, "parent": trial.parent}


def _confirmation(search: Search, results: dict[int, TrialResult], objective: str) -> dict[str, Any] | None:
    again = sorted(index for index, trial in search.trials.items() if trial.phase == "confirm")
    if len(again) < 2:
        return None
    baseline, best = again
    gain = paired_gain(results[best], results[baseline], objective)
    return {
        "seeds": list(search.trials[best].seeds),
        "baseline": baseline,
        "best": best,
        "gain": gain.mean if gain else None,
        "gain_std": gain.std if gain else None,
    }


def _cost(played: Play, sets: TrialSets, wall_s: float) -> dict[str, Any]:
    results = played.results.values()
    return {
        "wall_s": round(wall_s, 3),
        "train_s": round(sum(result.train_s for result in results), 3),
        "judge_s": round(sum(result.judge_s for result in results), 3),
        "generate_s": round(sets.generate_s, 3),
        "num_trained": len(played.results) - played.num_reused,
        "num_reused": played.num_reused,
        "overhead_s_per_trial": round(float(np.mean(played.overheads_s)), 3) if played.overheads_s else None,
        "overheads_s": [round(seconds, 3) for seconds in played.overheads_s],
    }


def trials_table(result: dict[str, Any]) -> pd.DataFrame:
    """One row per trial: index, phase, arm, values, status, figures and seconds; without curves."""
    rows = [
        {
            **{key: value for key, value in row.items() if key not in ("values", "curve", "seeds")},
            **{field: _cell(row["values"].get(field)) for field in result["fields"]},
            "num_seeds": len(row["seeds"]),
        }
        for row in result["trials"]
    ]
    return pd.DataFrame(rows)


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else str(value)


def print_outcome(result: dict[str, Any], folder: Path) -> None:
    """Say on the terminal what a search found, what is left in doubt, and what to do next."""
    console.print(_table(result))
    rows = {row["index"]: row for row in result["trials"]}
    objective = result["objectives"][0]
    title = NAMES[objective]
    for index in result["failed"]:
        console.print(f"  trial {index} failed: {rows[index]['error']}", style="yellow", markup=False, soft_wrap=True)
    best, gap = result["best"], f"on validation sets, mean over {_seeds(result['num_seeds'])}"
    if best == 0:
        console.print(f"no configuration beats the baseline's {title} of {100 * rows[0][objective]:.2f} {gap}")
    else:
        gain = 100 * (rows[best][objective] - rows[0][objective])
        console.print(f"best: trial {best}, {gain:+.2f} points of {title} over the baseline {gap}")
        again = result["confirmation"]
        if again is not None and again["gain"] is not None:
            noise = f", std {100 * again['gain_std']:.2f}" if len(again["seeds"]) > 1 else ""
            console.print(
                f"with fresh seeds: {100 * again['gain']:+.2f} points{noise}, mean over {_seeds(len(again['seeds']))}; "
                "this is the figure to believe"
            )
    shown = os.path.relpath(folder)
    console.print(f"page: {os.path.join(shown, SEARCH_PAGE_NAME)}", soft_wrap=True)  # noqa: PTH118 - may begin with ..
    console.print(f"next: sio-ray run {os.path.join(shown, BEST_CONFIG_NAME)}", soft_wrap=True)  # noqa: PTH118


def _table(result: dict[str, Any]) -> Table:
    objective = result["objectives"][0]
    others = [metric for metric in ("near_auroc", "far_auroc", ACCURACY) if metric != objective]
    table = Table(title="Trials by validation OOD AUROC, %, best first", title_justify="left", box=None)
    for name in ("trial", *map(short, result["fields"])):
        table.add_column(name, overflow="fold")
    for metric in (objective, *others):
        table.add_column(TITLES[metric], justify="right", no_wrap=True)
    table.add_column("")
    rows = sorted(result["trials"], key=lambda row: -(last_figure(row, objective) or 0.0))
    kept = [row for row in rows if row["phase"] == "search"][:_NUM_ROWS]
    kept += [row for row in rows if row["index"] == 0 and row not in kept]
    for row in kept:
        values = [str(row["values"].get(field, "")) for field in result["fields"]]
        mean, std = last_figure(row, objective), last_figure(row, f"{objective}_std")
        noise = f" ± {100 * std:.2f}" if std is not None and len(row["seeds"]) > 1 else ""
        figures = ["" if mean is None else f"{100 * mean:.2f}{noise}"]
        figures += ["" if (each := last_figure(row, metric)) is None else f"{100 * each:.2f}" for metric in others]
        name = "baseline" if row["index"] == 0 else str(row["index"])
        table.add_row(name, *values, *figures, _remark(row), style="dim" if row["index"] == 0 else "")
    return table


def _seeds(count: int) -> str:
    return "1 seed, which gives no measure of noise" if count == 1 else f"{count} seeds"


def _remark(row: dict[str, Any]) -> str:
    if row["status"] == "done":
        return "" if row["is_feasible"] else "ID accuracy too low"
    return str(row["status"])


def last_figure(row: dict[str, Any], metric: str) -> float | None:
    """A metric at the last validation of a trial's row; None if it gave no network."""
    return row["curve"][-1].get(metric) if row["curve"] and row["status"] in ("done", "stopped") else None
