"""The tables of the page in rows: both arms of every detector, OOD set and run; settings and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sio_ray.report.comparison import (
    ARM_PHRASES,
    ARMS,
    AUROC,
    FPR,
    GROUP_NAMES,
    GROUPS,
    METRICS,
    NOTHING,
    Comparison,
    Estimate,
    Metric,
    by_set,
    compare,
    compare_means,
)
from sio_ray.report.data import Evaluation
from sio_ray.report.numbers import plural

COST_COLUMNS = {"fit_s": "Fit", "sweep_s": "Sweep", "score_s": "Score", "metrics_s": "Metrics"}


@dataclass(frozen=True)
class Row:
    """A row of a table: its headings, and a comparison per group of columns."""

    names: tuple[str, ...]
    cells: Mapping[str, Comparison]


@dataclass(frozen=True)
class MetricTable:
    """One metric for all detectors.

    Attributes:
        metric: which.
        columns: key of `Row.cells` to heading; each has a column per arm and one for the difference.
        rows: one per detector (or run).
        mean: over the detectors that every run has; None if there is none.
    """

    metric: Metric
    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    mean: Row | None


@dataclass(frozen=True)
class HeatMap:
    """AUROC of every detector on every OOD set.

    Attributes:
        sets: (group, name) of every OOD set, near first.
        rows: one per detector; cells by `group/name`.
        low: the lowest AUROC of an arm.
        high: the highest.
        reach: the largest absolute difference between arms.
    """

    sets: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    low: float
    high: float
    reach: float

    def shade(self, value: Estimate | None) -> float:
        """Where a value lies from the lowest (0) to the highest (1)."""
        return 0.0 if value is None or self.high <= self.low else (value.mean - self.low) / (self.high - self.low)

    def tint(self, difference: float | None) -> float:
        """The size of a difference over the largest, in [0, 1]."""
        return abs(difference or 0.0) / self.reach if self.reach else 0.0


@dataclass(frozen=True)
class SettingRow:
    """What a detector was set to: its title and paper, the number of settings tried, and by arm the one chosen."""

    title: str
    paper: str
    num_tried: int
    chosen: Mapping[str, str]


def arms_of(*data: Evaluation) -> tuple[str, ...]:
    """The arms that were evaluated, baseline first."""
    return _present(ARMS, (arm for one in data for arm in one.metrics["arm"]))


def groups_of(metrics: pd.DataFrame) -> tuple[str, ...]:
    """The groups of OOD sets that were evaluated, near first."""
    return _present(GROUPS, metrics["group"])


def metrics_of(*data: Evaluation) -> list[Metric]:
    """The metrics that all evaluations have."""
    return [metric for metric in METRICS if all(metric.key in one.metrics.columns for one in data)]


def detectors_of(data: Evaluation) -> list[str]:
    """Names of the detectors, in the order of the metrics."""
    return [str(name) for name in dict.fromkeys(data.metrics["detector"])]


def shared_detectors(*data: Evaluation) -> list[str]:
    """Detectors that every arm and seed of every evaluation has, so that means over them are comparable."""
    shared = detectors_of(data[0])
    for one in data:
        runs = one.metrics[["arm", "seed", "detector"]].drop_duplicates()
        num_runs = len(runs[["arm", "seed"]].drop_duplicates())
        counts = Counter(runs["detector"])
        shared = [name for name in shared if counts[name] == num_runs]
    return shared


def metric_table(data: Evaluation, metric: Metric) -> MetricTable:
    """Group means of one metric: the unweighted mean over OOD sets per seed, then mean and std over seeds."""
    groups = {group: GROUP_NAMES[group] for group in groups_of(data.metrics)}
    cells = compare(data.metrics, metric)
    rows = tuple(
        Row((data.title_of(name),), {group: cells.get((name, group), NOTHING) for group in groups})
        for name in detectors_of(data)
    )
    means = compare_means(data.metrics, shared_detectors(data), metric)
    return MetricTable(metric, groups, rows, Row(("Mean",), means) if means else None)


def full_spectrum(data: Evaluation) -> Evaluation:
    """The same evaluation with covariate-shifted ID images among ID."""
    return replace(data, metrics=data.full_spectrum, full_spectrum=data.full_spectrum.iloc[:0])


def detector_table(runs: Sequence[Evaluation], metric: Metric, group: str) -> MetricTable:
    """One metric of every detector in several runs, side by side."""
    columns = {run.name: run.name for run in runs}
    cells = {run.name: compare(run.metrics, metric) for run in runs}
    titles = {name: run.title_of(name) for run in reversed(runs) for name in detectors_of(run)}
    names = dict.fromkeys(name for run in runs for name in detectors_of(run))
    rows = tuple(
        Row((titles[name],), {run: of_run.get((name, group), NOTHING) for run, of_run in cells.items()})
        for name in names
    )
    shared = shared_detectors(*runs)
    means = {run.name: compare_means(run.metrics, shared, metric).get(group, NOTHING) for run in runs}
    return MetricTable(metric, columns, rows, Row(("Mean",), means) if shared else None)


def run_table(runs: Sequence[Evaluation]) -> MetricTable:
    """Mean AUROC over the detectors that all runs have, and ID accuracy; a row per run."""
    shared = shared_detectors(*runs)
    groups = _present(GROUPS, (group for run in runs for group in groups_of(run.metrics)))
    columns = {group: f"{GROUP_NAMES[group]} AUROC" for group in groups if shared}
    rows = []
    for run in runs:
        means = compare_means(run.metrics, shared, AUROC)
        rows.append(
            Row((run.name,), {**{group: means.get(group, NOTHING) for group in groups}, "id": id_accuracy(run)})
        )
    return MetricTable(AUROC, {**columns, "id": "ID accuracy"}, tuple(rows), None)


def ood_set_rows(data: Evaluation) -> list[Row]:
    """AUROC and FPR@95 of every OOD set, each the mean over detectors; names are (set, group)."""
    by_path = by_set(data.metrics)
    cells = {metric.key: compare_means(by_path, shared_detectors(data), metric) for metric in (AUROC, FPR)}
    return [
        Row((name, GROUP_NAMES[group]), {key: values.get(f"{group}/{name}", NOTHING) for key, values in cells.items()})
        for group, name in _ood_sets(data)
    ]


def detector_set_rows(data: Evaluation) -> list[Row]:
    """AUROC and FPR@95 of every detector on every OOD set; names are (set, detector)."""
    by_path = by_set(data.metrics)
    cells = {metric.key: compare(by_path, metric) for metric in (AUROC, FPR)}
    return [
        Row(
            (name, data.title_of(detector)), {key: values[detector, f"{group}/{name}"] for key, values in cells.items()}
        )
        for group, name in _ood_sets(data)
        for detector in detectors_of(data)
    ]


def heat_map(data: Evaluation) -> HeatMap:
    """AUROC of every detector on every OOD set, with what its colours need."""
    cells = compare(by_set(data.metrics), AUROC)
    sets = _ood_sets(data)
    means = [estimate.mean for cell in cells.values() for estimate in (cell.baseline, cell.sio) if estimate]
    rows = tuple(
        Row((data.title_of(detector),), {f"{group}/{name}": cells[detector, f"{group}/{name}"] for group, name in sets})
        for detector in detectors_of(data)
    )
    reach = max(abs(cell.difference or 0.0) for cell in cells.values())
    return HeatMap(tuple(sets), rows, min(means), max(means), reach)


def id_accuracy(data: Evaluation) -> Comparison:
    """Accuracy on the ID test set; of several methods, the mean over them."""
    if data.id_accuracy.empty:
        return NOTHING
    per_seed = data.id_accuracy.groupby(["arm", "seed"], as_index=False)["accuracy"].mean()
    estimates = {
        str(arm): Estimate(float(values.mean()), float(values.std(ddof=0)), len(values))
        for arm, values in per_seed.groupby("arm")["accuracy"]
    }
    return Comparison(estimates.get("baseline"), estimates.get("sio"))


def headline(data: Evaluation) -> list[tuple[str, Comparison]]:
    """The few numbers of the verdict: mean AUROC per group, and ID accuracy."""
    means = compare_means(data.metrics, shared_detectors(data), AUROC)
    numbers = [(f"{group}-OOD AUROC", means[group]) for group in groups_of(data.metrics) if group in means]
    if len(data.id_accuracy):
        numbers.append(("ID accuracy", id_accuracy(data)))
    return numbers


def seed_counts(data: Evaluation) -> dict[str, int]:
    """Number of seeds of each arm that was run."""
    return {arm: data.metrics.loc[data.metrics["arm"] == arm, "seed"].nunique() for arm in arms_of(data)}


def seed_count(data: Evaluation) -> str:
    """The number of seeds in words, such as `2 seeds`."""
    counts = seed_counts(data)
    if len(set(counts.values())) < 2:
        return plural(next(iter(counts.values()), 0), "seed")
    return " and ".join(f"{plural(count, 'seed')} of {ARM_PHRASES[arm]}" for arm, count in counts.items())


def cost_rows(data: Evaluation) -> list[tuple[str, dict[str, float]]]:
    """(title, seconds by `COST_COLUMNS`) of every detector, means over runs."""
    if not data.costs:
        return []
    means = pd.DataFrame(data.costs).groupby("detector", sort=False)[list(COST_COLUMNS)].mean()
    return [(data.title_of(str(name)), row) for name, row in means.to_dict("index").items()]


def setting_rows(data: Evaluation) -> list[SettingRow]:
    """Paper and chosen setting of every detector."""
    return [
        SettingRow(
            data.title_of(name),
            data.papers.get(name, ""),
            len({_setting_text(row["setting"]) for row in data.sweeps if row["detector"] == name}),
            {arm: _chosen(data.settings, arm, name) for arm in arms_of(data)},
        )
        for name in detectors_of(data)
    ]


def _chosen(settings: Iterable[Mapping[str, Any]], arm: str, detector: str) -> str:
    """Settings over seeds, the most frequent first: `k = 50 (2 of 3 seeds), k = 100 (1)`."""
    counts = Counter(
        _setting_text(row["setting"]) for row in settings if (row["arm"], row["detector"]) == (arm, detector)
    )
    if len(counts) < 2:
        return next(iter(counts), "")
    of_seeds = [f" of {plural(counts.total(), 'seed')}", *[""] * (len(counts) - 1)]
    return "; ".join(f"{text} ({n}{of})" for (text, n), of in zip(counts.most_common(), of_seeds, strict=True))


def _setting_text(setting: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}" for name, value in setting.items()
    )


def _ood_sets(data: Evaluation) -> list[tuple[str, str]]:
    pairs = dict.fromkeys(zip(data.metrics["group"], data.metrics["ood_set"], strict=True))
    return sorted(pairs, key=lambda pair: GROUPS.index(pair[0]))


def _present(order: tuple[str, ...], values: Iterable[str]) -> tuple[str, ...]:
    found = set(values)
    return tuple(name for name in order if name in found)
