"""The pictures of a study's page: both arms per method, gains along each ablation, real beside synthetic images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sio_ray.imageset.contact_sheet import contact_sheet
from sio_ray.plot_style import plot_style
from sio_ray.report.comparison import AUROC, GROUP_NAMES
from sio_ray.report.data import ClassGrid
from sio_ray.study.plan import Ablation
from sio_ray.study.results import AblationRow, MethodRow

#: They are read on a white and on a dark page, so they bring a ground of their own.
_STYLE: dict[str, Any] = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "rule": "#e3e6ea",
    "font_size_pt": 9,
    "axes_grid": True,
    "lines_linewidth": 1.3,
    "svg_fonttype": "none",
    "svg_hashsalt": "sio_ray",
}
_BASELINE, _SIO, _FAR = "#59636e", "#0a6cba", "#b35900"
_WIDTH_IN = 6.5
_PICTURES = 8


def draw_methods(rows: Sequence[MethodRow], group: str) -> bytes:
    """AUROC of both arms of every method: dots for the means, thin bars for the standard deviation over seeds; SVG."""
    shown = [(row.title, cell) for row in rows if (cell := row.cells[group, AUROC.key]) is not None]

    def draw(axes: Any) -> None:
        for y, (_, cell) in enumerate(shown):
            axes.plot([100 * cell.baseline.mean, 100 * cell.sio.mean], [y, y], color="#d0d7de", linewidth=4, zorder=2)
            for arm, marker, colour, lift in (("baseline", "o", _BASELINE, -0.14), ("sio", "D", _SIO, 0.14)):
                estimate = getattr(cell, arm)
                name = {"baseline": "Baseline", "sio": "SIO"}[arm] if y == 0 else None
                bar = {"xerr": 100 * estimate.std, "elinewidth": 1.0, "zorder": 3}
                axes.errorbar(
                    100 * estimate.mean, y + lift, fmt=marker, markersize=5.5, color=colour, label=name, **bar
                )
        axes.set_yticks(range(len(shown)), [title for title, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{GROUP_NAMES[group]} AUROC, %")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)

    return _svg(draw, 0.24 * len(shown) + 0.9)


def draw_ablation(ablation: Ablation, rows: Sequence[AblationRow]) -> bytes | None:
    """Gain in AUROC at every point, near- and far-OOD; SVG, or None where fewer than two points have been run."""
    done = [row for row in rows if row.cells is not None]
    if len(done) < 2:
        return None

    def draw(axes: Any) -> None:
        axes.axhline(0, color=_BASELINE, linewidth=0.9)
        for group, colour, marker, shift in (("near", _SIO, "D", -0.06), ("far", _FAR, "x", 0.06)):
            places = [(x, cell) for x, row in enumerate(done) if (cell := (row.cells or {}).get((group, AUROC.key)))]
            axes.errorbar(
                [x + shift for x, _ in places],
                [100 * cell.difference for _, cell in places],
                yerr=[100 * cell.std for _, cell in places],
                color=colour,
                marker=marker,
                markersize=5,
                elinewidth=1.0,
                label=f"{GROUP_NAMES[group]}",
            )
        axes.set_xticks(range(len(done)), [row.label for row in done])
        axes.set_xlabel(ablation.column)
        axes.set_ylabel("SIO minus baseline,\nAUROC points")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)

    return _svg(draw, 2.6)


def draw_pictures(grids: Sequence[ClassGrid]) -> bytes:
    """Real pictures above synthetic ones, two rows for each class; PNG."""
    rows = []
    for grid in grids:
        for kind, pictures in (("real", grid.real), ("synthetic", grid.synthetic)):
            if pictures is not None:
                rows.append((f"{grid.name}, {kind}", np.asarray(pictures[:_PICTURES])))
    buffer = io.BytesIO()
    contact_sheet(rows, min_side_px=28).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _svg(draw: Any, height_in: float) -> bytes:
    with plot_style(**_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained", facecolor="white")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue().encode()
