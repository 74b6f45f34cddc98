"""Draw a search over its two most important fields: the objective as a heat map, with its trials; or over one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.tri import Triangulation
from scipy.spatial import QhullError

from sio_ray.report.numbers import percent
from sio_ray.report.search_result import FAILED, Search, Trial, figure_text, metric_name, scale_of, unit_of
from sio_ray.report.search_scale import Scale
from sio_ray.report.svg import ARM_COLOURS, GROUND, HEAT, INK, MUTED, draw_svg, legend_above

BASELINE, BEST = ARM_COLOURS["baseline"], ARM_COLOURS["sio"]
#: Opacity of the lowest and of the highest colour of a heat map; text stays readable on the latter.
_FAINTEST, _STRONGEST = 0.06, 0.66
_NUM_BANDS = 8


@dataclass(frozen=True)
class Plane:
    """A heat map over two fields.

    Attributes:
        svg: the drawing.
        kind: `surface` (interpolated), `cells` (means within), `grid` (cells of two lists, where trials of equal values
            lie on each other and so are not drawn), or `points` where too few trials compare.
    """

    svg: str
    kind: str


def draw_plane(search: Search, x_field: str, y_field: str) -> Plane | None:
    """The objective over two fields.

    Between trials it is interpolated linearly where both fields are ranges, and averaged in cells where one is a list.
    Only trials that compare colour the map; others are marked where they lie.

    Returns:
        None if no trial of these fields compares.
    """
    fields = search.result["fields"]
    x_scale, y_scale = Scale(fields[x_field]), Scale(fields[y_field])
    placed = [
        (trial, x, y)
        for trial in search.configurations
        if (x := _place(x_scale, trial, x_field)) is not None and (y := _place(y_scale, trial, y_field)) is not None
    ]
    compared = [(trial, x, y) for trial, x, y in placed if search.compares(trial)]
    if not compared:
        return None
    points = np.array([(x, y, trial[search.objective]) for trial, x, y in compared])
    shade = Shade([trial[search.objective] for trial, _, _ in compared])
    num_lists = x_scale.is_list + y_scale.is_list
    triangles = None if num_lists else _triangulate(points)
    kind = ("surface" if triangles else "points", "cells", "grid")[num_lists]

    def draw(axes: Any) -> None:
        if triangles is not None:
            _draw_surface(axes, triangles, points[:, 2], shade, search.baseline.get(search.objective))
        elif num_lists:
            _draw_cells(axes, points, x_scale, y_scale, shade)
        best = search.best
        _draw_trials(axes, search, placed if kind != "grid" else [row for row in placed if row[0] is best], shade)
        axes.set_xticks(*x_scale.ticks())
        axes.set_yticks(*y_scale.ticks())
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.05, 1.05), xlabel=search.short(x_field), ylabel=search.short(y_field))
        axes.grid(visible=False)
        _draw_bar(axes, shade, search)
        legend_above(axes, ncols=5, handletextpad=0.3, columnspacing=1.0)

    label = f"{metric_name(search.objective)} over {x_field} and {y_field}, from {percent(shade.low)} to "
    label += f"{percent(shade.high)} %{_best_text(search)}"
    return Plane(draw_svg(draw, "search-plane", label, 3.9, 5.6), kind)


def draw_scatter(search: Search, field: str) -> str | None:
    """The objective of every trial against the one field of the space, with the std over seeds as bars.

    Returns:
        None if no trial compares.
    """
    scale = Scale(search.result["fields"][field])
    placed = [(trial, x) for trial in search.configurations if (x := _place(scale, trial, field)) is not None]
    if not any(search.compares(trial) for trial, _ in placed):
        return None
    factor = scale_of(search.objective)

    def draw(axes: Any) -> None:
        level = search.baseline.get(search.objective)
        if level is not None:
            std = search.baseline.get(f"{search.objective}_std") or 0.0
            axes.axhspan((level - std) * factor, (level + std) * factor, color=BASELINE, alpha=0.12, linewidth=0)
            axes.axhline(level * factor, color=BASELINE, linestyle="--", linewidth=1.2, label="baseline")
        for style, chosen in _groups(search, [trial for trial, _ in placed]):
            inside = [(trial, x) for trial, x in placed if trial in chosen and trial.get(search.objective) is not None]
            if not inside:
                continue
            axes.errorbar(
                [x for _, x in inside],
                [trial[search.objective] * factor for trial, _ in inside],
                yerr=[(trial.get(f"{search.objective}_std") or 0.0) * factor for trial, _ in inside],
                linestyle="none",
                elinewidth=0.9,
                **style,
            )
        axes.set_xticks(*scale.ticks())
        axes.set(xlim=(-0.04, 1.04), xlabel=search.short(field))
        axes.set_ylabel(f"{metric_name(search.objective)}, {unit_of(search.objective)}")
        legend_above(axes, ncols=5, handletextpad=0.3, columnspacing=1.0)

    label = f"{metric_name(search.objective)} of every trial against {field}{_best_text(search)}"
    return draw_svg(draw, "search-scatter", label, 3.4, 5.6)


class Shade:
    """Opacity of the map's colour for a figure."""

    def __init__(self, figures: Sequence[float]) -> None:
        self.low, self.high = float(min(figures)), float(max(figures))

    def __call__(self, figure: float) -> float:
        """The higher, the stronger."""
        share = 0.5 if self.high <= self.low else min(1.0, max(0.0, (figure - self.low) / (self.high - self.low)))
        return _FAINTEST + (_STRONGEST - _FAINTEST) * share

    def bands(self) -> list[float]:
        """Figures at which a surface changes its colour, the lowest and the highest among them."""
        return [float(level) for level in np.linspace(self.low, self.high, _NUM_BANDS + 1)]


def _place(scale: Scale, trial: Trial, field: str) -> float | None:
    return scale.place(trial["values"][field]) if field in trial["values"] else None


def _triangulate(points: Any) -> Triangulation | None:
    """Triangles between the points; None where they span no area, or all have one figure."""
    unique = np.unique(points[:, :2], axis=0)
    if len(unique) < 3 or len(unique) < len(points) or np.ptp(points[:, 2]) == 0:
        return None
    try:
        return Triangulation(points[:, 0], points[:, 1])
    except (QhullError, RuntimeError, ValueError):
        return None


def _draw_surface(axes: Any, triangles: Triangulation, figures: Any, shade: Shade, baseline: float | None) -> None:
    levels = shade.bands()
    seen = 0.0
    for low, high in pairwise(levels):
        # Each band lies on those below and adds what its own opacity lacks, as bands side by side show seams.
        wanted = shade((low + high) / 2)
        alpha, seen = 1 - (1 - wanted) / (1 - seen), wanted
        axes.tricontourf(triangles, figures, levels=[low, shade.high], colors=[HEAT], alpha=alpha, zorder=1)
    if baseline is not None and shade.low < baseline < shade.high:
        axes.tricontour(triangles, figures, levels=[baseline], colors=[BASELINE], linewidths=1.6)


def _draw_cells(axes: Any, points: Any, x_scale: Scale, y_scale: Scale, shade: Shade) -> None:
    x_edges, y_edges = x_scale.edges(), y_scale.edges()
    columns = np.clip(np.searchsorted(x_edges, points[:, 0], side="right") - 1, 0, len(x_edges) - 2)
    rows = np.clip(np.searchsorted(y_edges, points[:, 1], side="right") - 1, 0, len(y_edges) - 2)
    for column, row in sorted(set(zip(columns.tolist(), rows.tolist(), strict=True))):
        mean = float(points[(columns == column) & (rows == row), 2].mean())
        x, y = x_edges[column : column + 2], y_edges[row : row + 2]
        axes.fill_between(x, *y, color=HEAT, alpha=shade(mean), linewidth=0, zorder=1)
        if len(x_edges) * len(y_edges) <= 64:
            # Above the middle, where the marker of a trial may lie.
            height = y[0] + 0.9 * (y[1] - y[0])
            axes.text(sum(x) / 2, height, percent(mean), ha="center", va="top", color=INK, fontsize=8)


def _draw_trials(axes: Any, search: Search, placed: list[tuple[Trial, float, float]], shade: Shade) -> None:
    for style, chosen in _groups(search, [trial for trial, _, _ in placed]):
        inside = [(trial, x, y) for trial, x, y in placed if trial in chosen]
        xs, ys = [x for _, x, _ in inside], [y for _, _, y in inside]
        axes.plot(xs, ys, linestyle="none", **{"zorder": 3, **style})
        if style["marker"] == "o":
            colours = [to_rgba(HEAT, shade(trial[search.objective])) for trial, _, _ in inside]
            axes.scatter(xs, ys, s=style["markersize"] ** 2, c=colours, linewidths=0, zorder=4)


def _groups(search: Search, trials: list[Trial]) -> Iterator[tuple[dict[str, Any], list[Trial]]]:
    """Trials that look alike, with how they look: finished, not to compare, failed, and the best."""
    best = search.best
    kinds: dict[str, list[Trial]] = {"finished": [], "earlier": [], "stopped": [], "failed": [], "best": []}
    for trial in trials:
        if best is not None and trial["index"] == best["index"]:
            kinds["best"].append(trial)
        elif search.compares(trial):
            kinds["finished"].append(trial)
        elif trial["status"] in FAILED:
            kinds["failed"].append(trial)
        else:
            kinds["stopped" if trial["status"] == "stopped" else "earlier"].append(trial)
    dim = {"color": MUTED, "markerfacecolor": "none", "markeredgewidth": 1.0}
    styles = {
        "finished": {"color": INK, "marker": "o", "markersize": 5.5, "markerfacecolor": GROUND, "markeredgewidth": 0.8},
        "earlier": {**dim, "marker": ".", "markersize": 3.5},
        "stopped": {**dim, "marker": "x", "markersize": 5},
        "failed": {**dim, "marker": "v", "markersize": 5},
        "best": {"color": BEST, "marker": "*", "markersize": 13, "markeredgecolor": GROUND, "zorder": 5},
    }
    names = {"earlier": "earlier generation", "stopped": "stopped early"}
    for kind, chosen in kinds.items():
        if chosen:
            yield {**styles[kind], "label": names.get(kind, kind)}, chosen


def _draw_bar(axes: Any, shade: Shade, search: Search) -> None:
    """The scale of colours, with the baseline's figure on it."""
    factor = scale_of(search.objective)
    bar = axes.inset_axes([1.04, 0, 0.035, 1])
    levels = shade.bands() if shade.high > shade.low else [shade.low - 0.0005, shade.high + 0.0005]
    for low, high in pairwise(levels):
        # Where a strip ends at a whole pixel differs from screen to screen, so strips have no outline.
        bar.fill_between([0, 1], low * factor, high * factor, color=HEAT, alpha=shade((low + high) / 2), linewidth=0)
    baseline = search.baseline.get(search.objective)
    if baseline is not None:
        bar.axhline(baseline * factor, color=BASELINE, linewidth=2)
        text = f"baseline, {figure_text(search.objective, baseline)}"
        axes.plot([], [], color=BASELINE, linewidth=1.6, label=text)
    bar.patch.set_visible(False)
    bar.margins(0.01)
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set_ylabel(f"{metric_name(search.objective)}, {unit_of(search.objective)}")
    bar.grid(visible=False)
    bar.spines[["left", "bottom"]].set_visible(False)


def _best_text(search: Search) -> str:
    best = search.best
    if best is None:
        return "; no trial beat the baseline"
    return f"; the best is {search.name(best)} with {figure_text(search.objective, best.get(search.objective))}"
