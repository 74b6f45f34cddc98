"""What a search is for: its objectives, its constraint, the best trial and the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sio_ray.config import TuneConfig
from sio_ray.search.trial import TrialResult

#: ID accuracy on the validation set, which constraint and front read.
ACCURACY = "val_accuracy"


@dataclass(frozen=True)
class Goal:
    """What to maximise, and what a trial must keep.

    Attributes:
        objectives: metrics to maximise; the first decides which trial is the best.
        max_accuracy_drop: how far ID accuracy may lie below the baseline's; None: as far as it likes.
    """

    objectives: tuple[str, ...]
    max_accuracy_drop: float | None = None

    @classmethod
    def of(cls, section: TuneConfig) -> Goal:
        """Of a config."""
        return cls(section.objectives, section.max_accuracy_drop)

    @property
    def traded(self) -> tuple[str, ...]:
        """What the front weighs: both objectives, or the one against ID accuracy."""
        return self.objectives if len(self.objectives) > 1 else tuple(dict.fromkeys((*self.objectives, ACCURACY)))

    def least_accuracy(self, baseline: TrialResult) -> float | None:
        """The least ID accuracy of a trial that counts; None without a constraint, or a baseline to compare with."""
        accuracy = baseline.value(ACCURACY)
        return None if self.max_accuracy_drop is None or accuracy is None else accuracy - self.max_accuracy_drop

    def is_feasible(self, result: TrialResult, baseline: TrialResult) -> bool:
        """Whether a trial gave a network, and keeps the constraint."""
        accuracy, least = result.value(ACCURACY), self.least_accuracy(baseline)
        return accuracy is not None and (least is None or accuracy >= least)

    def best(self, results: Mapping[int, TrialResult], among: Sequence[int]) -> int:
        """The best trial that ran to its end and keeps the constraint; 0, the baseline, if none beats it.

        Among equals the first wins.

        Args:
            results: index to result, that of the baseline among them.
            among: indices that may win.
        """
        best, most = 0, results[0].value(self.objectives[0])
        for index in among:
            result = results[index]
            value = result.value(self.objectives[0])
            if result.status != "done" or value is None or not self.is_feasible(result, results[0]):
                continue
            if most is None or value > most:
                best, most = index, value
        return best


def pareto_front(results: Mapping[int, TrialResult], objectives: Sequence[str]) -> list[int]:
    """Indices of the trials that no other beats in one objective without losing in another, by the first objective.

    Args:
        results: index to result; trials without a network are left out.
        objectives: metrics to maximise.
    """
    points = {
        index: np.array([value for metric in objectives if (value := result.value(metric)) is not None])
        for index, result in results.items()
        if result.status == "done"
    }
    front = [
        index
        for index, point in points.items()
        if not any((other >= point).all() and (other > point).any() for other in points.values())
    ]
    return sorted(front, key=lambda index: tuple(points[index]))


@dataclass(frozen=True)
class Gain:
    """What one trial gains over another with the same seeds.

    Attributes:
        mean: of the differences, seed by seed.
        std: of these (ddof 0).
    """

    mean: float
    std: float


def paired_gain(best: TrialResult, baseline: TrialResult, metric: str) -> Gain | None:
    """The difference in a metric at the last validation, paired by seed; None if one of the two gave no network."""
    if best.value(metric) is None or baseline.value(metric) is None:
        return None
    differences = np.subtract(best.curve[-1].by_seed[metric], baseline.curve[-1].by_seed[metric])
    return Gain(float(differences.mean()), float(differences.std()))
