"""Draw what a search trades, such as OOD detection against ID accuracy: the Pareto front and the constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sio_ray.report.search_plane import BASELINE, BEST
from sio_ray.report.search_result import ACCURACY, Search, Trial, metric_name
from sio_ray.report.svg import GROUND, MUTED, draw_svg, legend_above


def draw_pareto(search: Search) -> str | None:
    """OOD detection against ID accuracy, or against the other objective.

    Returns:
        None if fewer than two trials have both figures, or accuracy alone is the objective.
    """
    traded = search.traded
    if traded is None:
        return None
    upwards, rightwards = traded
    on_front = set(search.result["pareto"])
    trials = [
        trial
        for trial in search.searched
        # One that was stopped early has figures of a network that was not trained to the end.
        if (search.compares(trial) or trial["index"] in {*on_front, 0})
        and None not in (trial.get(upwards), trial.get(rightwards))
    ]
    if len(trials) < 2:
        return None
    front = sorted(
        (trial for trial in trials if trial["index"] in on_front), key=lambda trial: float(trial[rightwards])
    )
    dominated = [trial for trial in trials if trial["index"] not in {*on_front, 0}]

    def draw(axes: Any) -> None:
        if search.result["constraint"] and rightwards == ACCURACY:
            least = search.result["constraint"]["least_accuracy"] * 100
            axes.axvline(least, color=MUTED, linestyle=":", linewidth=1.2, label="least ID accuracy", zorder=1)
        _draw_dominated(axes, dominated, traded)
        _draw_front(axes, front, traded)
        outline = {"markeredgecolor": GROUND, "markeredgewidth": 0.7}
        for trial, name, marker, size, colour in (
            (search.baseline, "baseline", "s", 7, BASELINE),
            (search.best, "best", "*", 14, BEST),
        ):
            if trial in trials:
                x, y = _points([trial], traded)
                axes.plot(x, y, marker, color=colour, markersize=size, label=name, zorder=5, **outline)
        axes.set(xlabel=f"{metric_name(rightwards)}, %", ylabel=f"{metric_name(upwards)}, %")
        axes.margins(0.07)
        legend_above(axes, ncols=4, handletextpad=0.3, columnspacing=1.0)

    what = f"{metric_name(upwards)} against {metric_name(rightwards)}"
    label = f"{what}: {len(front)} of {len(trials)} trials on the front"
    return draw_svg(draw, "search-pareto", label, 3.9, 5.6)


def _draw_dominated(axes: Any, trials: Sequence[Trial], traded: tuple[str, str]) -> None:
    """Dimmed, and hollow where they break the constraint."""
    for chosen, name, face, alpha in (
        (_with_feasible(trials, True), "dominated", MUTED, 0.55),
        (_with_feasible(trials, False), "infeasible", "none", 1),
    ):
        if chosen:
            x, y = _points(chosen, traded)
            axes.plot(x, y, "o", color=MUTED, markersize=5, markerfacecolor=face, alpha=alpha, label=name)


def _draw_front(axes: Any, front: Sequence[Trial], traded: tuple[str, str]) -> None:
    """Joined by the edge of what it dominates, with the std over seeds of both figures."""
    x, y = _points(front, traded)
    axes.step(x, y, where="pre", color=BEST, linewidth=1, alpha=0.7, zorder=2)
    x_std, y_std = ([(trial.get(f"{key}_std") or 0.0) * 100 for trial in front] for key in reversed(traded))
    axes.errorbar(x, y, xerr=x_std, yerr=y_std, fmt="none", ecolor=MUTED, elinewidth=0.7, alpha=0.5, zorder=1)
    for chosen, name, face in (
        (_with_feasible(front, True), "front", BEST),
        (_with_feasible(front, False), "front, infeasible", GROUND),
    ):
        if chosen:
            axes.plot(
                *_points(chosen, traded), "o", color=BEST, markersize=6, markerfacecolor=face, label=name, zorder=4
            )


def _with_feasible(trials: Sequence[Trial], is_feasible: bool) -> list[Trial]:
    return [trial for trial in trials if trial.get("is_feasible", True) == is_feasible]


def _points(trials: Sequence[Trial], traded: tuple[str, str]) -> tuple[list[float], list[float]]:
    """Both metrics in percent, the one to the right first."""
    upwards, rightwards = traded
    return [trial[rightwards] * 100 for trial in trials], [trial[upwards] * 100 for trial in trials]
