"""The plots of the page: arms per detector, ROC curves, score densities, features, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from sklearn.metrics import roc_curve

from sio_ray.report.comparison import ARM_NAMES, ARMS, NOTHING
from sio_ray.report.data import Curve
from sio_ray.report.svg import (
    ARM_COLOURS,
    ARM_LINES,
    GROUND,
    GROUP_MARKERS,
    GROUP_STYLES,
    INK,
    MUTED,
    RULE,
    WIDTH_IN,
    draw_svg,
    legend_above,
)
from sio_ray.report.tables import MetricTable

#: Points of each group in a picture of features; more would hide each other and make the page heavy.
_MAX_POINTS = 400


def draw_comparison(table: MetricTable, column: str, *, of: str = "detector") -> str:
    """Both arms of every row on one axis: dots for the means, thin bars for the std over seeds.

    Args:
        table: of one metric.
        column: key of one of its columns.
        of: what a row is, in a word.
    """
    rows = [*table.rows, table.mean] if table.mean else table.rows
    shown = [(row.names[0], row.cells[column]) for row in rows if row.cells.get(column, NOTHING) != NOTHING]

    def draw(axes: Any) -> None:
        seen: set[str] = set()
        for y, (_, cell) in enumerate(shown):
            if cell.baseline and cell.sio:
                axes.plot([cell.baseline.mean * 100, cell.sio.mean * 100], [y, y], color=RULE, linewidth=4, zorder=2)
            # A little above and below the line, so that neither arm hides the other where they agree.
            for arm, marker, size, lift in (("baseline", "o", 6.5, -0.14), ("sio", "D", 6, 0.14)):
                estimate = getattr(cell, arm)
                if estimate is None:
                    continue
                axes.errorbar(
                    estimate.mean * 100,
                    y + lift,
                    xerr=estimate.std * 100,
                    fmt=marker,
                    markersize=size,
                    color=ARM_COLOURS[arm],
                    markeredgecolor=GROUND,
                    markeredgewidth=0.7,
                    elinewidth=1.0,
                    zorder=3,
                    label=None if arm in seen else ARM_NAMES[arm],
                )
                seen.add(arm)
        if table.mean:
            axes.axhline(len(shown) - 1.5, color=MUTED, linewidth=0.7)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"{table.metric.name}, %")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, handletextpad=0.2)

    label = f"{table.metric.name} per {of}, both arms"
    return draw_svg(draw, f"comparison-{column}", label, (0.27 if len(shown) < 16 else 0.21) * len(shown) + 0.95)


def draw_roc(scores: pd.DataFrame, group: str) -> str:
    """ROC curves of one detector on one group, a line per arm and seed.

    Args:
        scores: of one detector.
        group: `near` or `far`. Its OOD sets are averaged at equal false positive rate, so that the area under the line
            is the mean AUROC of the tables; a curve of the pooled images would have another.
    """
    fpr = np.linspace(0, 1, 201)

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.7, linestyle=":")
        for arm in ARMS:
            runs = scores[scores["arm"] == arm]
            for i, (_, run) in enumerate(runs.groupby("seed")):
                negatives = run.loc[run["group"] == "id", "ood_score"].to_numpy()
                sets = run[run["group"] == group].groupby("image_set", observed=True)["ood_score"]
                curves = [_roc_at(fpr, negatives, values.to_numpy()) for _, values in sets]
                if len(negatives) == 0 or not curves:
                    continue
                axes.plot(
                    fpr * 100,
                    np.mean(curves, axis=0) * 100,
                    color=ARM_COLOURS[arm],
                    linestyle=ARM_LINES[arm],
                    label=ARM_NAMES[arm] if i == 0 else None,
                )
        axes.set(xlim=(0, 100), ylim=(0, 101), xlabel="ID images flagged, %", ylabel="OOD images flagged, %")
        axes.set_aspect("equal")
        axes.legend(loc="lower right")

    return draw_svg(draw, f"roc-{group}", f"ROC curves on {group}-OOD", 4.2, WIDTH_IN - 0.4)


def draw_histogram(scores: pd.DataFrame, arm: str, seed: int) -> str:
    """Densities of the score of one detector over ID, near-OOD and far-OOD images of one run.

    The axis covers all but the outermost half percent at each end; every OOD set weighs the same in its group.
    """
    run = scores[(scores["arm"] == arm) & (scores["seed"] == seed)]
    low, high = np.quantile(run["ood_score"].to_numpy(), [0.005, 0.995])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 31)

    def draw(axes: Any) -> None:
        for group, (name, colour, line) in GROUP_STYLES.items():
            sets = run[run["group"] == group].groupby("image_set", observed=True)["ood_score"]
            # Divided by all images, not by those within the axis, so that the areas are shares of the set.
            shares = [np.histogram(values, edges)[0] / len(values) for _, values in sets]
            if not shares:
                continue
            density = np.mean(shares, axis=0) / (edges[1] - edges[0])
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.13, linewidth=0)
            axes.stairs(density, edges, color=colour, linestyle=line, linewidth=1.3, label=name)
        axes.set(xlabel="OOD score, higher is more OOD", ylabel="density", xlim=(low, high))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(visible=False, axis="x")
        legend_above(axes)

    return draw_svg(draw, f"histogram-{arm}", f"Score densities of {ARM_NAMES[arm]}", 2.9)


def draw_projection(points: pd.DataFrame, arm: str, shares: Sequence[float]) -> str:
    """Features of one run on two principal axes: ID test, near-OOD and far-OOD images, every OOD set alike.

    Args:
        points: rows of the run, with `group`, `image_set`, `x` and `y`.
        arm: of the run.
        shares: of the variance of the training features on each axis; empty if not known.
    """

    def draw(axes: Any) -> None:
        for group, (name, colour, _) in GROUP_STYLES.items():
            sets = [rows for _, rows in points[points["group"] == group].groupby("image_set", sort=False)]
            if not sets:
                continue
            per_set = max(1, _MAX_POINTS // len(sets))
            # The rows are a random sample already, so the first ones are one too.
            shown = pd.concat([rows.head(per_set) for rows in sets])
            axes.plot(
                shown["x"],
                shown["y"],
                linestyle="none",
                marker=GROUP_MARKERS[group],
                markersize=2.6,
                markeredgewidth=0.7,
                markerfacecolor="none",
                color=colour,
                alpha=0.8,
                label=name,
            )
        labels = [f" ({100 * share:.0f} % of variance)" for share in shares] or ["", ""]
        axes.set(xlabel=f"first principal axis{labels[0]}", ylabel=f"second{labels[1]}")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        legend_above(axes, handlelength=1.0, markerscale=1.8)

    return draw_svg(draw, f"projection-{arm}", f"Features of {ARM_NAMES[arm]} on two principal axes", 4.2)


def draw_curves(curves: Sequence[Curve], key: str, label: str, *, scale: float = 1.0) -> str | None:
    """Training curves, one thin line per run.

    Args:
        curves: runs of any arms.
        key: of their points, such as `loss`.
        label: of the y axis.
        scale: multiplies the values, such as 100 for percent.

    Returns:
        None if no point has the key.
    """
    lines = []
    for curve in curves:
        points = [(point["step"], point[key] * scale) for point in curve.points if key in point]
        if points:
            lines.append((curve.arm, *np.array(points, dtype=float).T))
    if not lines:
        return None
    values = np.concatenate([y for _, _, y in lines])
    values = values[np.isfinite(values)]
    # A loss falls by orders of magnitude, and what matters is at its end.
    log = key == "loss" and len(values) > 0 and values.min() > 0 and values.max() / values.min() > 10

    def draw(axes: Any) -> None:
        seen: set[str] = set()
        for arm, x, y in lines:
            name = ARM_NAMES.get(arm) if arm not in seen else None
            seen.add(arm)
            axes.plot(x, y, color=ARM_COLOURS.get(arm, INK), linestyle=ARM_LINES.get(arm, "-"), linewidth=1, label=name)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
            axes.minorticks_off()
        axes.set(xlabel="optimiser step", ylabel=f"{label} (log)" if log else label)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if seen & set(ARM_NAMES):
            legend_above(axes)

    name = f"curve-{key}-{'-'.join(dict.fromkeys(arm for arm, _, _ in lines))}"
    return draw_svg(draw, name, f"{label} against optimiser step", 2.9)


def _roc_at(
    fpr: npt.NDArray[np.float64], negatives: npt.NDArray[np.float64], positives: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    labels = np.concatenate([np.zeros(len(negatives)), np.ones(len(positives))])
    x, y, _ = roc_curve(labels, np.concatenate([negatives, positives]), drop_intermediate=True)
    curve: npt.NDArray[np.float64] = np.interp(fpr, x, y)
    return curve
