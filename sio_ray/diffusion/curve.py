"""Writes the generator's loss curve while it trains: numbers as JSON, and a picture."""

from __future__ import annotations

import io
import json

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from sio_ray.imageset.storage import Folder
from sio_ray.plot_style import plot_style
from sio_ray.training.loop import Point

CURVE_NAME, PLOT_NAME = "curve.json", "loss.png"

#: Up to so many points each is marked; the line alone shows more.
_MAX_MARKERS = 60

_INK, _MUTED, _RULE = "#1f2328", "#59636e", "#e3e6ea"


def write_curve(folder: Folder, points: list[Point]) -> None:
    """Write `curve.json` (the points as they are) and `loss.png` (their loss, unsmoothed) in place of those there.

    Args:
        folder: of the stage.
        points: each with `step` and `loss`; at least one.

    Raises:
        ResourceError: the folder cannot be written.
    """
    folder.write_bytes(CURVE_NAME, (json.dumps(points, indent=1) + "\n").encode())
    folder.write_bytes(PLOT_NAME, draw_loss(points))


def draw_loss(points: list[Point]) -> bytes:
    """Loss against step as a PNG; the loss axis is logarithmic, for what matters is at its end."""
    steps, losses = np.array([(point["step"], point["loss"]) for point in points]).T
    with plot_style(
        ink=_INK, muted=_MUTED, rule=_RULE, font_size_pt=9, axes_grid=True, lines_linewidth=1.3, lines_markersize=3
    ):
        figure = Figure(figsize=(5, 2.9), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(steps, losses, color=_INK, marker="o" if len(steps) <= _MAX_MARKERS else "")
        axes.set(xlabel="optimiser step", ylabel="generator loss (log)", yscale="log")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        # Within half a decade there would be a tick or two at 1, 2 and 5 times powers of ten.
        few = losses.max() < 5 * losses.min()
        axes.yaxis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
