"""Draw with matplotlib and make inline SVG of it that follows the page's light or dark theme."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

from markupsafe import escape
from matplotlib.figure import Figure

from sio_ray.plot_style import plot_style

#: Colours that matplotlib draws with, and what the page puts in their place.
INK, MUTED, RULE, NEAR, FAR, GROUND = "#000101", "#000102", "#000103", "#000104", "#000105", "#000106"
ARM_COLOURS = {"baseline": "#000107", "sio": "#000108", "generator": INK}
HEAT = "#000109"
_THEME = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    NEAR: "var(--near)",
    FAR: "var(--far)",
    GROUND: "var(--ground)",
    ARM_COLOURS["baseline"]: "var(--baseline)",
    ARM_COLOURS["sio"]: "var(--sio)",
    HEAT: "var(--heat)",
}
#: ID, near and far differ in colour, line and marker, so that no reader depends on colour.
GROUP_STYLES = {"id": ("ID", MUTED, "-"), "near": ("near-OOD", NEAR, "-"), "far": ("far-OOD", FAR, "--")}
GROUP_MARKERS = {"id": "o", "near": "^", "far": "x"}
ARM_LINES = {"baseline": "--", "sio": "-", "generator": "-"}

_STYLE: dict[str, Any] = {
    "ink": INK,
    "muted": MUTED,
    "rule": RULE,
    "font_size_pt": 9,
    "axes_grid": True,
    "lines_linewidth": 1.3,
    "svg_fonttype": "none",
    "svg_hashsalt": "sio_ray",
}
WIDTH_IN = 5.0
Draw = Callable[[Any], None]


def legend_above(axes: Any, *, ncols: int = 3, **more: Any) -> None:
    """A legend in one line over the axes, where it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=ncols, borderaxespad=0.2, **{"handlelength": 1.6, **more}
    )


def draw_svg(draw: Draw, name: str, label: str, height_in: float, width_in: float = WIDTH_IN) -> str:
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
    svg = f'<svg class="plot" {view_box[0]} role="img" aria-label="{escape(label)}">' + svg[svg.index(">") + 1 :]
    referenced = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: _prefixed(match, name) if match[1] in referenced else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]).replace("\n", ""), svg)
    svg = re.sub(r' ([xy])="(-?\d+\.\d\d)\d+"', r' \1="\2"', svg)
    for sentinel, colour in _THEME.items():
        svg = svg.replace(sentinel, colour)
    return re.sub(r">\s*\n\s*<", "><", svg)


def _prefixed(match: re.Match[str], name: str) -> str:
    return f' id="{name}-{match[1]}"'
