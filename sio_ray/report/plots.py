"""Draw the plots as inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from sklearn.metrics import roc_curve

from sio_ray.plot_style import plot_style
from sio_ray.report.data import Curve
from sio_ray.report.tables import ARM_NAMES, ARMS, Comparison, MetricTable

#: Colours that matplotlib draws with, and what the page puts in their place.
_INK, _MUTED, _RULE, _NEAR, _FAR, _GROUND = "#000101", "#000102", "#000103", "#000104", "#000105", "#000106"
_ARM_COLOURS = {"baseline": "#000107", "sio": "#000108", "generator": _INK}
_THEME = {
    _INK: "currentColor",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _NEAR: "var(--near)",
    _FAR: "var(--far)",
    _GROUND: "var(--ground)",
    _ARM_COLOURS["baseline"]: "var(--baseline)",
    _ARM_COLOURS["sio"]: "var(--sio)",
}
#: ID, near and far differ in colour and in the line, so that no reader depends on colour.
_GROUP_STYLES = {"id": ("ID", _MUTED, "-"), "near": ("near-OOD", _NEAR, "-"), "far": ("far-OOD", _FAR, "--")}
_ARM_LINES = {"baseline": "--", "sio": "-", "generator": "-"}

_STYLE: dict[str, Any] = {
    "ink": _INK,
    "muted": _MUTED,
    "rule": _RULE,
    "font_size_pt": 9,
    "axes_grid": True,
    "lines_linewidth": 1.3,
    "svg_fonttype": "none",
    "svg_hashsalt": "sio_ray",
}
_WIDTH_IN = 5.0
Draw = Callable[[Any], None]


def draw_comparison(table: MetricTable, group: str) -> str:
    """Both arms of every detector on one axis: dots for the means, thin bars for the std over seeds."""
    rows = [(row.names[0], row.cells.get(group)) for row in (*table.rows, table.mean)]
    shown: list[tuple[str, Comparison]] = [(name, cell) for name, cell in rows if cell is not None]

    def draw(axes: Any) -> None:
        for y, (_, cell) in enumerate(shown):
            if cell.baseline and cell.sio:
                axes.plot([cell.baseline.mean * 100, cell.sio.mean * 100], [y, y], color=_RULE, linewidth=4, zorder=2)
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
                    color=_ARM_COLOURS[arm],
                    markeredgecolor=_GROUND,
                    markeredgewidth=0.7,
                    elinewidth=1.0,
                    zorder=3,
                    label=ARM_NAMES[arm] if y == 0 else None,
                )
        axes.axhline(len(shown) - 1.5, color=_MUTED, linewidth=0.7)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"{table.metric.name}, %")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, handletextpad=0.2)

    return _svg(draw, f"comparison-{group}", f"{table.metric.name} per detector, both arms", 0.27 * len(shown) + 0.95)


def draw_roc(scores: pd.DataFrame, group: str) -> str:
    """ROC curves of one detector on one group, a line per arm and seed.

    Args:
        scores: of one detector.
        group: `near` or `far`. Its OOD sets are averaged at equal false positive rate, so that the area under the line
            is the mean AUROC of the tables; a curve of the pooled images would have another.
    """
    fpr = np.linspace(0, 1, 201)

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=_MUTED, linewidth=0.7, linestyle=":")
        for arm in ARMS:
            runs = scores[scores["arm"] == arm]
            for i, (_, run) in enumerate(runs.groupby("seed")):
                negatives = run.loc[run["group"] == "id", "ood_score"].to_numpy()
                sets = run[run["group"] == group].groupby("image_set")["ood_score"]
                curves = [_roc_at(fpr, negatives, values.to_numpy()) for _, values in sets]
                if len(negatives) == 0 or not curves:
                    continue
                axes.plot(
                    fpr * 100,
                    np.mean(curves, axis=0) * 100,
                    color=_ARM_COLOURS[arm],
                    linestyle=_ARM_LINES[arm],
                    label=ARM_NAMES[arm] if i == 0 else None,
                )
        axes.set(xlim=(0, 100), ylim=(0, 101), xlabel="ID images flagged, %", ylabel="OOD images flagged, %")
        axes.set_aspect("equal")
        axes.legend(loc="lower right")

    return _svg(draw, f"roc-{group}", f"ROC curves on {group}-OOD", 4.2, _WIDTH_IN - 0.4)


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
        for group, (name, colour, line) in _GROUP_STYLES.items():
            sets = run[run["group"] == group].groupby("image_set")["ood_score"]
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
        _legend_above(axes)

    return _svg(draw, f"histogram-{arm}", f"Score densities of {ARM_NAMES[arm]}", 2.9)


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
            axes.plot(
                x, y, color=_ARM_COLOURS.get(arm, _INK), linestyle=_ARM_LINES.get(arm, "-"), linewidth=1, label=name
            )
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
            _legend_above(axes)

    name = f"curve-{key}-{'-'.join(dict.fromkeys(arm for arm, _, _ in lines))}"
    return _svg(draw, name, f"{label} against optimiser step", 2.9)


def _legend_above(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.6)


def _roc_at(
    fpr: npt.NDArray[np.float64], negatives: npt.NDArray[np.float64], positives: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    labels = np.concatenate([np.zeros(len(negatives)), np.ones(len(positives))])
    x, y, _ = roc_curve(labels, np.concatenate([negatives, positives]), drop_intermediate=True)
    curve: npt.NDArray[np.float64] = np.interp(fpr, x, y)
    return curve


def _svg(draw: Draw, name: str, label: str, height_in: float, width_in: float = _WIDTH_IN) -> str:
    """Draw on one pair of axes and make the SVG fit for a page: themed, named, without ids that clash."""
    with plot_style(**_STYLE), warnings.catch_warnings():
        # The reader's browser has glyphs that the font in which matplotlib measures has not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _clean(buffer.getvalue(), name, label)


def _clean(svg: str, name: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None, "matplotlib writes a viewBox"
    svg = f'<svg class="plot" {view_box[0]} role="img" aria-label="{label}">' + svg[svg.index(">") + 1 :]
    referenced = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: _prefixed(match, name) if match[1] in referenced else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]).replace("\n", ""), svg)
    for sentinel, colour in _THEME.items():
        svg = svg.replace(sentinel, colour)
    return re.sub(r">\s*\n\s*<", "><", svg)


def _prefixed(match: re.Match[str], name: str) -> str:
    return f' id="{name}-{match[1]}"'
