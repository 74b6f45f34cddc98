"""Turn metrics into what the page and the terminal print: comparisons of the two arms, in rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from scipy.stats import f as f_distribution

from sio_ray.ood.protocol import summarise
from sio_ray.report.data import ReportData

ARMS = ("baseline", "sio")
ARM_PHRASES = {"baseline": "the baseline", "sio": "SIO"}
ARM_NAMES = {"baseline": "Baseline", "sio": "SIO"}
GROUPS = ("near", "far")
GROUP_NAMES = {"near": "Near-OOD", "far": "Far-OOD"}

#: A plus-minus sign, and no line break after it.
PLUS_MINUS = " \N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}"

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
)
AUROC, FPR = METRICS[:2]


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation (ddof 0) over seeds, as fractions."""

    mean: float
    std: float
    num_seeds: int


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


@dataclass(frozen=True)
class Row:
    """A row of a table: its headings, and a comparison per column group."""

    names: tuple[str, ...]
    cells: dict[str, Comparison]


@dataclass(frozen=True)
class MetricTable:
    """One metric for all detectors, by group, with the mean over detectors."""

    metric: Metric
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    mean: Row


def arms_of(data: ReportData) -> tuple[str, ...]:
    """The arms that were evaluated, baseline first."""
    return _present(ARMS, data.metrics["arm"])


def groups_of(metrics: pd.DataFrame) -> tuple[str, ...]:
    """The groups of OOD sets that were evaluated, near first."""
    return _present(GROUPS, metrics["group"])


def metric_table(data: ReportData, metric: Metric) -> MetricTable:
    """Group means of one metric: the unweighted mean over OOD sets per seed, then mean and std over seeds."""
    groups = groups_of(data.metrics)
    cells = _compare(data.metrics, metric)
    rows = tuple(Row((name,), {group: cells[name, group] for group in groups}) for name in detectors_of(data))
    return MetricTable(metric, groups, rows, Row(("Mean",), _mean_over_detectors(data, metric)))


def ood_set_rows(data: ReportData) -> list[Row]:
    """AUROC and FPR@95 of every OOD set, each the mean over detectors; names are (set, group)."""
    by_set = _by_set(data.metrics)
    cells = {metric.key: _compare(_average_detectors(by_set), metric) for metric in (AUROC, FPR)}
    return [
        Row((name, GROUP_NAMES[group]), {key: values["mean", f"{group}/{name}"] for key, values in cells.items()})
        for group, name in _ood_sets(data)
    ]


def detector_set_rows(data: ReportData) -> list[Row]:
    """AUROC and FPR@95 of every detector on every OOD set; names are (set, detector)."""
    by_set = _by_set(data.metrics)
    cells = {metric.key: _compare(by_set, metric) for metric in (AUROC, FPR)}
    return [
        Row((name, detector), {key: values[detector, f"{group}/{name}"] for key, values in cells.items()})
        for group, name in _ood_sets(data)
        for detector in detectors_of(data)
    ]


def id_accuracy(data: ReportData) -> Comparison:
    """Accuracy on the ID test set."""
    estimates = {
        str(arm): Estimate(float(values.mean()), float(values.std(ddof=0)), len(values))
        for arm, values in data.id_accuracy.groupby("arm")["accuracy"]
    }
    return Comparison(estimates.get("baseline"), estimates.get("sio"))


def headline(data: ReportData) -> list[tuple[str, Comparison]]:
    """The few numbers of the verdict: mean AUROC per group, and ID accuracy."""
    cells = _mean_over_detectors(data, AUROC)
    numbers = [(f"{group}-OOD AUROC", comparison) for group, comparison in cells.items()]
    if len(data.id_accuracy):
        numbers.append(("ID accuracy", id_accuracy(data)))
    return numbers


def seed_count(data: ReportData) -> str:
    """The number of seeds in words, such as `2 seeds`."""
    counts = {arm: data.metrics.loc[data.metrics["arm"] == arm, "seed"].nunique() for arm in arms_of(data)}
    if len(set(counts.values())) < 2:
        return plural(next(iter(counts.values()), 0), "seed")
    return " and ".join(f"{plural(count, 'seed')} of {ARM_PHRASES[arm]}" for arm, count in counts.items())


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal, without the sign: `0.7834` is `78.3`."""
    return f"{100 * fraction:.1f}"


def points(fraction: float) -> str:
    """A difference in percent points with its sign: `-0.018` is `-1.8`, with a true minus."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def false_alarms(data: ReportData) -> float | None:
    """How often `beyond_noise` holds by chance where the arms do not differ; None where it is never asked.

    With n normal seeds per arm, diff^2 / (std_a^2 + std_b^2) is F(1, 2n - 2) / (n - 1) in distribution. Where the
    arms have different numbers of seeds, the smaller stands for both.
    """
    counts = [data.metrics.loc[data.metrics["arm"] == arm, "seed"].nunique() for arm in arms_of(data)]
    if len(counts) < 2 or min(counts) < 2:
        return None
    return float(f_distribution.sf(min(counts) - 1, 1, 2 * min(counts) - 2))


def estimate_text(estimate: Estimate | None) -> str:
    """Such as `78.3 ± 0.4`, without the spread where there is one seed."""
    if estimate is None:
        return "unknown"
    std = PLUS_MINUS + percent(estimate.std) if estimate.num_seeds > 1 else ""
    return percent(estimate.mean) + std


def _compare(metrics: pd.DataFrame, metric: Metric) -> dict[tuple[str, str], Comparison]:
    """Comparisons by (detector, group)."""
    estimates: dict[tuple[str, str], dict[str, Estimate]] = {}
    for row in summarise(metrics).to_dict("records"):
        mean, std = float(row[f"{metric.key}_mean"]), float(row[f"{metric.key}_std"])
        both = estimates.setdefault((row["detector"], row["group"]), {})
        both[row["arm"]] = Estimate(mean, std, int(row["num_seeds"]))
    return {
        key: Comparison(both.get("baseline"), both.get("sio"), metric.higher_is_better)
        for key, both in estimates.items()
    }


def _mean_over_detectors(data: ReportData, metric: Metric) -> dict[str, Comparison]:
    # Averaged per seed before the spread over seeds is taken: the detectors of one seed share a network.
    cells = _compare(_average_detectors(data.metrics), metric)
    return {group: cells["mean", group] for group in groups_of(data.metrics)}


def _average_detectors(metrics: pd.DataFrame) -> pd.DataFrame:
    keys = [metric.key for metric in METRICS]
    mean = metrics.groupby(["arm", "seed", "group", "ood_set"], as_index=False)[keys].mean()
    return mean.assign(detector="mean")


def _by_set(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every OOD set as a group of its own."""
    return metrics.assign(group=metrics["group"] + "/" + metrics["ood_set"])


def detectors_of(data: ReportData) -> list[str]:
    """Names of the detectors, in the order of the metrics."""
    return [str(name) for name in dict.fromkeys(data.metrics["detector"])]


def _ood_sets(data: ReportData) -> list[tuple[str, str]]:
    pairs = dict.fromkeys(zip(data.metrics["group"], data.metrics["ood_set"], strict=True))
    return sorted(pairs, key=lambda pair: GROUPS.index(pair[0]))


def _present(order: tuple[str, ...], values: Iterable[str]) -> tuple[str, ...]:
    found = set(values)
    return tuple(name for name in order if name in found)


def plural(count: int, noun: str) -> str:
    """A count in words, such as `2 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
