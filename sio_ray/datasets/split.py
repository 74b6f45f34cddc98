"""Splits labelled pictures by share, class by class, so that each picture is in exactly one part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sio_ray.errors import ImageSetError


def split_by_class(
    classes: npt.NDArray[np.int64], shares: Sequence[float], rng: np.random.Generator, names: Sequence[str]
) -> list[npt.NDArray[np.int64]]:
    """Split rows at random so that every part holds its share of every class, and at least one row of each.

    Args:
        classes: (N,) int64, in [0, len(names)).
        shares: share of each part, in (0, 1), together 1.
        rng: decides which row goes where.
        names: name of class c at position c, for errors.

    Returns:
        For each part its rows, int64, ascending. Together they are 0..N-1.

    Raises:
        ImageSetError: a class has fewer rows than there are parts.
    """
    parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in shares]
    for label, name in enumerate(names):
        rows = rng.permutation(np.flatnonzero(classes == label))
        if len(rows) < len(shares):
            raise ImageSetError(
                f"{name} has too few pictures ({len(rows)}) to be split into {len(shares)} parts; add some."
            )
        for part, piece in zip(parts, np.split(rows, _cuts(len(rows), shares)), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]


def _cuts(num_rows: int, shares: Sequence[float]) -> list[int]:
    """Where each part but the first begins: the rounded running share, moved where a part would be empty."""
    cuts: list[int] = []
    for done, running_share in enumerate(np.cumsum(shares)[:-1], start=1):
        earliest = cuts[-1] + 1 if cuts else 1
        latest = num_rows - (len(shares) - done)
        cuts.append(min(max(round(float(running_share) * num_rows), earliest), latest))
    return cuts
