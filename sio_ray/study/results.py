"""The figures of a study, taken from what its runs left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sio_ray.config import Config
from sio_ray.methods import METHODS, PAPER_METHODS, method_names
from sio_ray.report.comparison import AUROC, FPR, GROUPS, Metric
from sio_ray.report.data import Evaluation, ReportData
from sio_ray.stages.layout import evaluate_place
from sio_ray.stages.record import read_record
from sio_ray.stages.report_inputs import gather, read_evaluation, source_of
from sio_ray.study.plan import Ablation, Study, config_at
from sio_ray.study.statistics import Paired, paired


@dataclass(frozen=True)
class MethodRow:
    """A row of the table.

    Attributes:
        name: of the method.
        title: in print.
        cells: (group, metric) to both arms; a group is `near` or `far`, or `id` for the accuracy.
    """

    name: str
    title: str
    cells: dict[tuple[str, str], Paired | None]


@dataclass(frozen=True)
class AblationRow:
    """A row of an ablation: means over methods.

    Attributes:
        label: of the point.
        cells: as in `MethodRow`; None where the point has not been run, or not all methods could be evaluated.
        lacking: titles of the methods that could not.
    """

    label: str
    cells: dict[tuple[str, str], Paired | None] | None
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyResults:
    """All that the page of a study says.

    Attributes:
        study: what was asked.
        config: whose table it is.
        data: its report's.
        rows: one per method.
        in_mean: methods of the paper's mean that were run.
        mean: over those, within each seed first.
        ablation_titles: of the methods that ablations are averaged over.
        ablations: each with its rows.
        wall_s: stage to (number of pieces of work, seconds of all), of the table alone.
    """

    study: Study
    config: Config
    data: ReportData
    rows: tuple[MethodRow, ...]
    in_mean: tuple[str, ...]
    mean: MethodRow
    ablation_titles: tuple[str, ...]
    ablations: tuple[tuple[Ablation, tuple[AblationRow, ...]], ...]
    wall_s: dict[str, tuple[int, float]]


def results_of(study: Study, config: Config) -> StudyResults:
    """Gather the figures of a study whose table has been run; ablations may be missing.

    Raises:
        StageError: `evaluate` has not run for the study's config.
    """
    data = gather(source_of(config))
    names = [name for name in config.method_names if name in set(data.metrics["detector"])]
    in_mean = tuple(name for name in names if name in PAPER_METHODS)
    return StudyResults(
        study=study,
        config=config,
        data=data,
        rows=tuple(MethodRow(name, METHODS[name].title, cells_of(data, [name])) for name in names),
        mean=MethodRow("mean", f"Mean of {len(in_mean)}", cells_of(data, in_mean)),
        in_mean=in_mean,
        ablation_titles=tuple(METHODS[name].title for name in _ablation_methods(study, config)),
        ablations=tuple((ablation, _ablation_rows(ablation, study, config)) for ablation in study.ablations),
        wall_s=_wall_s(data),
    )


def cells_of(data: Evaluation, methods: Sequence[str]) -> dict[tuple[str, str], Paired | None]:
    """Both arms of the mean over methods, for each group and metric; the sets of a group weigh the same."""
    chosen = data.metrics[data.metrics["detector"].isin(methods)]
    # The mean of means: every method has the same sets.
    by_set = chosen.groupby(["arm", "seed", "detector", "group"], as_index=False)[[AUROC.key, FPR.key]].mean()
    cells = {
        (group, metric.key): _paired(by_set[by_set["group"] == group], metric)
        for group in GROUPS
        for metric in (AUROC, FPR)
    }
    accuracy = data.id_accuracy
    if "detector" in accuracy:
        accuracy = accuracy[accuracy["detector"].isin(methods)]
    return {**cells, ("id", "accuracy"): paired(accuracy, "accuracy") if len(accuracy) else None}


def _paired(values: pd.DataFrame, metric: Metric) -> Paired | None:
    return paired(values, metric.key, higher_is_better=metric.higher_is_better) if len(values) else None


def _ablation_rows(ablation: Ablation, study: Study, config: Config) -> tuple[AblationRow, ...]:
    methods = _ablation_methods(study, config)
    rows = []
    for point in ablation.points:
        at = config_at(point, study, config)
        if read_record(evaluate_place(at).folder) is None:
            rows.append(AblationRow(point.label, None))
            continue
        data = read_evaluation(source_of(at))
        # A mean over the others would be of another thing than its neighbours are.
        lacking = tuple(METHODS[name].title for name in methods if name not in set(data.metrics["detector"]))
        rows.append(AblationRow(point.label, None if lacking else cells_of(data, methods), lacking))
    return tuple(rows)


def _ablation_methods(study: Study, config: Config) -> tuple[str, ...]:
    return method_names(study.ablation_methods) or tuple(name for name in config.method_names if name in PAPER_METHODS)


def _wall_s(data: ReportData) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for each in data.stage_times:
        stage = each.stage.split(" ")[0]
        # The joint evaluation holds those of the trainings.
        if stage == "evaluate" and each.stage != "evaluate":
            continue
        count, seconds = found.get(stage, (0, 0.0))
        found[stage] = (count + 1, seconds + each.wall_s)
    return found
