"""Draws the quality of a synthetic set as one PNG: bars per class, distances to the training set, nearest pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sio_ray.imageset.pictures import UInt8Array
from sio_ray.plot_style import plot_style
from sio_ray.quality.measure import Measures, Nearest, Quality

#: With more classes, those of the lowest agreement are drawn, and the title says so.
_MAX_CLASSES = 12
_WIDTH_IN = 7.2
_DPI = 200

# The colours of the report on white.
_INK, _MUTED, _RULE, _REAL, _SYNTHETIC = "#1b1e23", "#5c646e", "#dfe3e7", "#54708f", "#c2570c"

#: Title of a panel and the number that it shows.
_BARS = {"label agreement": "agreement", "precision": "precision", "recall": "recall", "coverage": "coverage"}


def draw(quality: Quality, nearest: Nearest | None) -> bytes:
    """Draw what was measured.

    Args:
        quality: with labels, or with memorisation.
        nearest: what was found in the training set, if there is one.

    Returns:
        A PNG.
    """
    parts: list[tuple[float, Callable[[Any], None]]] = []
    if quality.overall.labels is not None:
        classes, note = _chosen(quality)
        parts.append((0.19 * len(classes) + 1.05, lambda figure: _draw_bars(figure, quality, classes, note)))
    if nearest is not None:
        parts.append((2.2, lambda figure: _draw_distances(figure, quality, nearest)))
        height, width = nearest.train_images.shape[2:]
        parts.append((2 * 0.62 * height / width + 0.5, lambda figure: _draw_pairs(figure, nearest)))
    with plot_style(ink=_INK, muted=_MUTED, rule=_RULE, font_size_pt=8, axes_titlesize=8, axes_titlelocation="left"):
        heights = [height for height, _ in parts]
        figure = Figure(figsize=(_WIDTH_IN, sum(heights)), layout="constrained")
        panels = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)
        for panel, (_, draw_part) in zip(panels[:, 0], parts, strict=True):
            draw_part(panel)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _chosen(quality: Quality) -> tuple[list[Measures], str]:
    classes = list(quality.classes)
    if len(classes) <= _MAX_CLASSES:
        return classes, ""
    worst = sorted(classes, key=lambda measures: measures.labels.agreement if measures.labels else 2.0)[:_MAX_CLASSES]
    return worst, f" (the {_MAX_CLASSES} of {len(classes)} classes of lowest label agreement)"


def _draw_bars(figure: Any, quality: Quality, classes: list[Measures], note: str) -> None:
    rows = [quality.overall, *classes]
    names = ["all", *(_short(measures.name) for measures in classes)]
    axes = figure.subplots(1, len(_BARS), sharey=True)
    for ax, (title, field) in zip(axes, _BARS.items(), strict=True):
        values = [measures.numbers().get(field) for measures in rows]
        heights = [0.0 if v is None else v for v in values]
        colours = [_INK, *[_SYNTHETIC] * len(classes)]
        ax.barh(range(len(rows)), heights, height=0.72, color=colours)
        for y, v in enumerate(values):
            if v is None:
                ax.text(0.02, y, "too few pictures", va="center", color=_MUTED, fontsize=6.5)
            else:  # at the foot of the bar, where the line of the real pictures seldom is
                inside = v > 0.2
                ax.text(
                    0.02 if inside else v + 0.02,
                    y,
                    f"{v:.2f}",
                    va="center",
                    color="white" if inside else _INK,
                    fontsize=6.5,
                )
        real = quality.real.numbers().get(field)
        if real is not None:
            ax.axvline(real, color=_REAL, linestyle="--", linewidth=1.2)
            side = "right" if real > 0.5 else "left"
            ax.text(real, -0.85, f" real {real:.2f} ", color=_REAL, ha=side, va="center", fontsize=6.5)
        ax.set(xlim=(0, 1.02), ylim=(len(rows) - 0.4, -1.3), title=title)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.grid(visible=True, axis="x")
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(rows)), names)
    figure.suptitle(f"Synthetic pictures as a real-trained classifier sees them{note}", x=0.01, ha="left", fontsize=9)


def _draw_distances(figure: Any, quality: Quality, nearest: Nearest) -> None:
    found = quality.overall.memorisation
    assert found is not None, "there is a training set"
    ax = figure.subplots()
    both = np.concatenate([nearest.of_synthetic, nearest.of_held_out])
    edges = np.linspace(0, max(1.05 * float(np.quantile(both, 0.995)), 1 / 255), 41)
    for values, colour, line, name in (
        (nearest.of_held_out, _REAL, "--", "held-out real pictures"),
        (nearest.of_synthetic, _SYNTHETIC, "-", "synthetic pictures"),
    ):
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        ax.stairs(shares, edges, fill=True, color=colour, alpha=0.15, linewidth=0)
        label = f"{name} ({len(values):,}, median {np.median(values):.3f})"
        ax.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.3, label=label)
    ax.axvline(found.copy_distance, color=_INK, linewidth=0.8, linestyle=":")
    copies = "1 copy" if found.num_copies == 1 else f"{found.num_copies:,} copies"
    ax.text(
        found.copy_distance,
        0.97,
        f" {copies} left of this line, the nearest held-out picture ",
        transform=ax.get_xaxis_transform(),
        ha="left" if found.copy_distance < edges[-1] / 2 else "right",
        va="top",
        fontsize=7,
    )
    ax.set(xlim=(0, edges[-1]), xlabel="distance to the nearest training picture (RMS per pixel, 0 to 1)")
    ax.set_ylabel("pictures, %")
    ax.set_ylim(0, ax.get_ylim()[1] * 1.12)
    ax.grid(visible=True, axis="y")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.6)
    figure.suptitle("Distance to the training set", x=0.01, ha="left", fontsize=9)


def _draw_pairs(figure: Any, nearest: Nearest) -> None:
    count = len(nearest.distances)
    axes = figure.subplots(2, max(count, 10), squeeze=False)
    rows = (("synthetic", nearest.synthetic_images), ("nearest\ntraining", nearest.train_images))
    for row, (name, images) in zip(axes, rows, strict=True):
        for ax in row:
            ax.set_axis_off()
        for ax, image in zip(row, images, strict=False):
            _show(ax, image)
        row[0].text(-0.25, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    for ax, distance in zip(axes[0], nearest.distances, strict=False):
        ax.set_title(f"{distance:.3f}", fontsize=7, loc="center", pad=2)
    figure.suptitle(
        "The synthetic pictures nearest to the training set, and what they are nearest to",
        x=0.01,
        ha="left",
        fontsize=9,
    )


def _show(ax: Any, image: UInt8Array) -> None:
    picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    small = max(image.shape[1:]) < 64
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if small else "antialiased")


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"
