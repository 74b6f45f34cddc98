"""Draw the trials of a search: parallel coordinates, learning curves, and the schedule of a population's best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from sio_ray.report.search_plane import BASELINE, BEST, Shade
from sio_ray.report.search_result import (
    FAILED,
    Search,
    Trial,
    metric_name,
    scale_of,
    shortened,
)
from sio_ray.report.search_scale import Scale
from sio_ray.report.svg import GROUND, HEAT, INK, MUTED, draw_svg, legend_above

#: Fields whose parallel coordinates fit the width of other plots; more take that of the page.
MAX_NARROW = 3
_WIDTH_IN, _PAGE_IN = 5.6, 10.3


def draw_parallel(search: Search) -> str | None:
    """Parallel coordinates: an axis per field and one of the objective, and a line per trial.

    Returns:
        None if fewer than two trials have a figure.
    """
    objective, fields = search.objective, search.fields
    trials = [trial for trial in search.configurations if trial.get(objective) is not None]
    if len(trials) < 2 or not fields:
        return None
    baseline = search.baseline.get(objective)
    figures = [trial[objective] for trial in trials] + ([] if baseline is None else [baseline])
    shade = Shade([trial[objective] for trial in trials])
    scales = {field: Scale(search.result["fields"][field]) for field in fields}
    last = Scale({"kind": "uniform", "low": min(figures) * 100, "high": max(figures) * 100})
    best_last = sorted(trials, key=lambda trial: (trial is search.best, trial[objective]))

    def draw(axes: Any) -> None:
        for trial in best_last:
            values = trial["values"]
            places = [scale.place(values[key]) if key in values else None for key, scale in scales.items()]
            places.append(last.place(trial[objective] * 100))
            axes.plot(range(len(places)), _with_gaps(places), **_line_style(search, trial, shade))
        if baseline is not None:
            style = {"color": BASELINE, "markersize": 7, "markeredgecolor": GROUND, "zorder": 5}
            axes.plot([len(fields)], [last.place(baseline * 100)], "s", label="baseline", **style)
        for x, scale in enumerate([*scales.values(), last]):
            _draw_axis(axes, x, scale)
        names = [*(shortened(search.short(field), 20) for field in fields), f"{metric_name(objective)}, %"]
        axes.set_xticks(range(len(names)), names)
        axes.tick_params(axis="x", pad=6)
        axes.set_yticks([])
        axes.set(xlim=(-0.15, len(fields) + 0.4), ylim=(-0.05, 1.05))
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(visible=False)
        legend_above(axes, ncols=5)

    width = _WIDTH_IN if len(fields) <= MAX_NARROW else _PAGE_IN
    label = f"Parallel coordinates of {', '.join(fields)} and {metric_name(objective)}, a line per trial"
    return draw_svg(draw, "search-parallel", label, 3.6, width)


def draw_learning(search: Search) -> str | None:
    """The objective over steps, a line per trial; a population's segments go on where their parents were.

    Returns:
        None if no trial of the search was ever judged.
    """
    objective = search.objective
    line = search.lineage(search.best) if search.best is not None else []
    curves = [(trial, points) for trial in search.searched if len(points := _curve(search, trial))]
    if not curves:
        return None

    def draw(axes: Any) -> None:
        seen: set[str] = set()
        for trial, points in curves:
            kind, style = _curve_style(search, trial, line)
            # A line of one point would not show.
            style["marker"] = "." if len(points) == 1 else None
            axes.plot(points[:, 0], points[:, 1], label=None if kind in seen else kind, **style)
            seen.add(kind)
            if trial["status"] != "done":
                name = "stopped early" if trial["status"] == "stopped" else "failed"
                axes.plot(
                    *points[-1],
                    "x" if trial["status"] == "stopped" else "v",
                    color=INK,
                    markersize=5.5,
                    markerfacecolor="none",
                    markeredgewidth=1.1,
                    zorder=6,
                    label=None if name in seen else name,
                )
                seen.add(name)
        axes.set(xlabel="optimiser step", ylabel=f"{metric_name(objective)}, %")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.margins(x=0.03)
        legend_above(axes, ncols=5)

    label = f"{metric_name(objective)} over optimiser steps, a line per trial, {len(curves)} in all"
    return draw_svg(draw, "search-learning", label, 3.9, _WIDTH_IN)


def draw_schedule(search: Search, field: str, number: int) -> str:
    """How a field changed over the steps of the run that led to the best of a population."""
    assert search.best is not None, "a schedule is of a best"
    scale = Scale(search.result["fields"][field])
    line = search.lineage(search.best)
    steps = [0, *(segment["curve"][-1]["step"] for segment in line if segment["curve"])]
    places = [scale.place(segment["values"][field]) for segment in line if segment["curve"]]

    def draw(axes: Any) -> None:
        axes.stairs(_with_gaps(places), steps, color=BEST, linewidth=2, baseline=None)
        axes.set_yticks(*scale.ticks())
        axes.set(ylim=(-0.05, 1.05), xlabel="optimiser step", ylabel=search.short(field))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return draw_svg(draw, f"search-schedule-{number}", f"{field} over the steps of the best run", 2.4)


def _draw_axis(axes: Any, x: float, scale: Scale) -> None:
    """An upright axis with its values beside it."""
    axes.axvline(x, color=MUTED, linewidth=0.8, zorder=2)
    # Lines run behind the texts, which therefore stand on the ground's colour.
    box = {"boxstyle": "square,pad=0.1", "facecolor": GROUND, "edgecolor": "none", "alpha": 0.75}
    style = {"va": "center", "fontsize": 8, "color": INK, "bbox": box, "zorder": 6}
    for place, text in zip(*scale.ticks(12), strict=True):
        axes.annotate(text, (x, place), xytext=(4, 0), textcoords="offset points", **style)


def _with_gaps(places: Sequence[float | None]) -> list[float]:
    """What has no place leaves a gap in a line."""
    return [np.nan if place is None else place for place in places]


def _line_style(search: Search, trial: Trial, shade: Shade) -> dict[str, Any]:
    """The better, the stronger; the best stands out, and trials that do not compare are dotted."""
    if trial is search.best:
        return {"color": BEST, "linewidth": 2.6, "zorder": 4, "label": "best"}
    if not search.compares(trial):
        return {"color": MUTED, "linewidth": 0.9, "linestyle": ":", "alpha": 0.8, "zorder": 1}
    strength = shade(trial[search.objective])
    return {"color": HEAT, "linewidth": 1.4, "alpha": 0.2 + strength, "zorder": 3}


def _curve_style(search: Search, trial: Trial, line: Sequence[Trial]) -> tuple[str, dict[str, Any]]:
    if trial["index"] == 0:
        return "baseline", {"color": BASELINE, "linewidth": 2, "linestyle": "--", "zorder": 4}
    if trial in line:
        return "best", {"color": BEST, "linewidth": 2.4, "zorder": 5}
    faint = trial["status"] in FAILED or trial["status"] == "stopped"
    return "segment" if search.is_population else "trial", {
        "color": MUTED,
        "linewidth": 1,
        "alpha": 0.5 if faint else 0.75,
        "zorder": 3,
    }


def _curve(search: Search, trial: Trial) -> Any:
    """(N, 2) steps and objective in percent; a segment begins where its parent ended."""
    parent = trial.get("parent")
    before = search.trial(parent)["curve"][-1:] if parent is not None else []
    points = [
        (point["step"], point[search.objective] * scale_of(search.objective))
        for point in [*before, *trial["curve"]]
        if point.get(search.objective) is not None
    ]
    return np.array(points, dtype=float).reshape(-1, 2)
