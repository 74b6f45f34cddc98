"""When a trial is not worth its end: ASHA and median stopping, as floors that are known at its start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sio_ray.config import TuneConfig
from sio_ray.search.trial import Floors, TrialResult

#: The median rule waits for so many trials, and for the second validation.
_MIN_TRIALS, _FIRST_MEDIAN = 3, 1


def floors(section: TuneConfig, known: Sequence[TrialResult]) -> Floors:
    """The floors of a trial by what is known when it is proposed.

    Ray's schedulers decide when a result arrives, so what they decide depends on which trial was quicker, and on kills.
    Floors that are fixed at the start need no word between trials, and are the same every time.

    Args:
        section: of the config, with the rule.
        known: results of earlier trials, in the order of the search.
    """
    curves = [[point.mean(section.objectives[0]) for point in result.curve] for result in known]
    match section.stopping:
        case "asha":
            return Floors("now", _asha(curves, section.num_validations, section.reduction_factor))
        case "median":
            return Floors("best", _median(curves, section.num_validations))
    return Floors()


def rungs(num_validations: int, reduction_factor: int) -> list[int]:
    """Numbers (from 0) of the validations at which ASHA stops trials: at 1/r, 1/r^2, ... of the run.

    Source: Li et al., MLSys 2020, arXiv:1810.05934, with a minimum resource of one validation.
    """
    found, count = [], num_validations
    while count // reduction_factor >= 1:
        count //= reduction_factor
        found.append(count - 1)
    return sorted(found)


def _asha(curves: Sequence[Sequence[float]], num_validations: int, factor: int) -> tuple[float | None, ...]:
    """At a rung, the percentile above which 1 / factor of the trials lie that reached it."""
    values: list[float | None] = [None] * num_validations
    for rung in rungs(num_validations, factor):
        there = [curve[rung] for curve in curves if len(curve) > rung]
        if there:
            values[rung] = float(np.percentile(there, (1 - 1 / factor) * 100))
    return tuple(values)


def _median(curves: Sequence[Sequence[float]], num_validations: int) -> tuple[float | None, ...]:
    """The median of the running means of the trials that got as far.

    Source: Golovin et al., Google Vizier, KDD 2017.
    """
    values: list[float | None] = [None] * num_validations
    for number in range(_FIRST_MEDIAN, num_validations - 1):
        there = [float(np.mean(curve[: number + 1])) for curve in curves if len(curve) > number]
        if len(there) >= _MIN_TRIALS:
            values[number] = float(np.median(there))
    return tuple(values)
