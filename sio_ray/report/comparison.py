"""One number for both arms: mean and spread over seeds, the difference, and whether that is beyond noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from scipy.stats import f as f_distribution

from sio_ray.ood.protocol import METRICS as COLUMNS
from sio_ray.ood.summary import summarise
from sio_ray.report.numbers import PLUS_MINUS, percent

ARMS = ("baseline", "sio")
ARM_PHRASES = {"baseline": "the baseline", "sio": "SIO"}
ARM_NAMES = {"baseline": "Baseline", "sio": "SIO"}
GROUPS = ("near", "far")
GROUP_NAMES = {"near": "Near-OOD", "far": "Far-OOD"}

#: Half of the last digit that a page with one decimal of a percent can show.
_SMALLEST_SHOWN = 0.0005


@dataclass(frozen=True)
class Metric:
    """A column of the metrics and how to read it."""

    key: str
    name: str
    meaning: str
    higher_is_better: bool = True


METRICS = (
    Metric("auroc", "AUROC", "area under the ROC curve; 50 is chance, higher is better"),
    Metric(
        "fpr_at_95_tpr",
        "FPR@95",
        "share of ID images flagged at the threshold that flags 95 % of OOD; lower is better",
        False,
    ),
    Metric("aupr_out", "AUPR-out", "area under the precision-recall curve, OOD positive; higher is better"),
    Metric("aupr_in", "AUPR-in", "area under the precision-recall curve, ID positive; higher is better"),
    Metric(
        "fpr_at_95_id_tpr",
        "FPR@95 (ID positive)",
        "share of OOD images passed at the threshold that passes 95 % of ID, which is what the code of the SIO paper "
        "calls FPR@95; lower is better",
        False,
    ),
)
AUROC, FPR = METRICS[:2]


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation (ddof 0) over seeds, as fractions."""

    mean: float
    std: float
    num_seeds: int

    def __str__(self) -> str:
        """Such as `78.3 ± 0.4`, without the spread where there is one seed."""
        return percent(self.mean) + (PLUS_MINUS + percent(self.std) if self.num_seeds > 1 else "")


@dataclass(frozen=True)
class Comparison:
    """One number for both arms; an arm that was not run is None."""

    baseline: Estimate | None
    sio: Estimate | None
    higher_is_better: bool = True

    @property
    def difference(self) -> float | None:
        """SIO minus baseline, as a fraction."""
        return self.sio.mean - self.baseline.mean if self.sio and self.baseline else None

    @property
    def noise(self) -> float | None:
        """sqrt(std_a^2 + std_b^2), or None where an arm has one seed: a spread of one number says nothing."""
        if not (self.sio and self.baseline) or min(self.sio.num_seeds, self.baseline.num_seeds) < 2:
            return None
        return math.hypot(self.sio.std, self.baseline.std)

    @property
    def beyond_noise(self) -> bool:
        """The difference is larger than the noise, and shows at one decimal of a percent."""
        if self.difference is None or self.noise is None:
            return False
        return abs(self.difference) > max(self.noise, _SMALLEST_SHOWN)

    @property
    def winner(self) -> str | None:
        """The arm that is better beyond noise, if any."""
        if not self.beyond_noise or self.difference is None:
            return None
        return "sio" if (self.difference > 0) == self.higher_is_better else "baseline"


#: Where neither arm has the number.
NOTHING = Comparison(None, None)


def compare(metrics: pd.DataFrame, metric: Metric) -> dict[tuple[str, str], Comparison]:
    """Comparisons by (detector, group), each the unweighted mean over the OOD sets of the group.

    Raises:
        EvaluationError: no rows, or runs that do not fit together.
    """
    # The protocol asks for all of its metrics; an older evaluation may lack some, and one is read here.
    alone = metrics.assign(**dict.fromkeys(COLUMNS, metrics[metric.key]))
    estimates: dict[tuple[str, str], dict[str, Estimate]] = {}
    for row in summarise(alone).to_dict("records"):
        mean, std = float(row[f"{COLUMNS[0]}_mean"]), float(row[f"{COLUMNS[0]}_std"])
        both = estimates.setdefault((row["detector"], row["group"]), {})
        both[row["arm"]] = Estimate(mean, std, int(row["num_seeds"]))
    return {
        key: Comparison(both.get("baseline"), both.get("sio"), metric.higher_is_better)
        for key, both in estimates.items()
    }


def compare_means(metrics: pd.DataFrame, detectors: Iterable[str], metric: Metric) -> dict[str, Comparison]:
    """Comparisons by group, each the unweighted mean over these detectors."""
    # Averaged per seed before the spread over seeds is taken: the detectors of one seed share a network.
    names = list(detectors)
    if not names and len(metrics):
        return {}
    chosen = metrics[metrics["detector"].isin(names)]
    mean = chosen.groupby(["arm", "seed", "group", "ood_set"], as_index=False, sort=False)[[metric.key]].mean()
    return {group: cell for (_, group), cell in compare(mean.assign(detector="mean"), metric).items()}


def by_set(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every OOD set as a group of its own, `near/cifar100`."""
    return metrics.assign(group=metrics["group"] + "/" + metrics["ood_set"])


def false_alarms(num_seeds: Iterable[int]) -> float | None:
    """How often `beyond_noise` holds by chance where the arms do not differ; None where it is never asked.

    With n normal seeds per arm, diff^2 / (std_a^2 + std_b^2) is F(1, 2n - 2) / (n - 1) in distribution. Where the
    arms have different numbers of seeds, the smaller stands for both.

    Args:
        num_seeds: of each arm that was run.
    """
    counts = list(num_seeds)
    if len(counts) < 2 or min(counts) < 2:
        return None
    return float(f_distribution.sf(min(counts) - 1, 1, 2 * min(counts) - 2))
