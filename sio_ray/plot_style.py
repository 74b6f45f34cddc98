"""The look that all plots share, which no matplotlibrc of a machine changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl


@contextmanager
def plot_style(*, ink: str, muted: str, rule: str, font_size_pt: float, **more: Any) -> Iterator[None]:
    """Draw in this style inside the block.

    Args:
        ink: colour of text.
        muted: colour of axes.
        rule: colour of the grid.
        font_size_pt: of all text.
        more: further settings of matplotlib, with `_` for `.`, as in `lines_linewidth=1.3`.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                # Names come from the user's data; a dollar sign in one is not mathematics.
                "text.parse_math": False,
                "font.size": font_size_pt,
                "text.color": ink,
                "axes.labelcolor": ink,
                "axes.edgecolor": muted,
                "axes.linewidth": 0.7,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.axisbelow": True,
                "grid.color": rule,
                "grid.linewidth": 0.6,
                "xtick.color": muted,
                "ytick.color": muted,
                "xtick.labelcolor": ink,
                "ytick.labelcolor": ink,
                "xtick.major.size": 0,
                "ytick.major.size": 0,
                "legend.frameon": False,
                "legend.fontsize": font_size_pt,
                **{name.replace("_", ".", 1): value for name, value in more.items()},
            }
        )
        yield
