"""The OpenOOD protocol as pure functions: outputs of one checkpoint to tables, and tables of all runs to means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

import numpy as np
import pandas as pd

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.metrics import Float64Array, OODMetrics, ood_metrics
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

Group = Literal["near", "far"]

#: Columns of metrics, in the order of every table.
METRICS = tuple(field.name for field in fields(OODMetrics))

_RUN_KEYS = ["arm", "seed", "detector", "group"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Two tidy tables of one checkpoint.

    Attributes:
        metrics: detector, group (`near` or `far`), ood_set, then the columns of `METRICS`; one row per detector and
            OOD set.
        scores: detector, group (`id`, `near` or `far`), image_set (`test` for ID), image_id, ood_score; one row per
            detector and image.
    """

    metrics: pd.DataFrame
    scores: pd.DataFrame


def evaluate_checkpoint(
    train: NetworkOutputs,
    id_test: NetworkOutputs,
    ood_sets: Mapping[tuple[Group, str], NetworkOutputs],
    last_layer: LastLayer | None,
    detectors: Sequence[Detector],
) -> Evaluation:
    """Fit every detector on the training set, score every set, and compare each OOD set with the ID test set.

    Args:
        train: real ID training set.
        id_test: ID test set.
        ood_sets: (`near` or `far`, name of the set) to its outputs; tables keep this order.
        last_layer: of the network that gave all the outputs; None if that is not linear.
        detectors: not fitted yet, or fitted to another checkpoint; they are fitted again.

    Raises:
        EvaluationError: no OOD set or detector, an unknown group, a detector that cannot be fitted, or a score that is
            not finite.
    """
    if not ood_sets or not detectors:
        raise EvaluationError(
            f"evaluate_checkpoint must have an OOD set and a detector, got {len(ood_sets)} and {len(detectors)}; "
            "give at least one of each."
        )
    for group, name in ood_sets:
        if group not in get_args(Group):
            raise EvaluationError(
                f"evaluate_checkpoint.ood_sets must be in group near or far, got {group!r} for {name!r}; "
                "say how far the set is from ID."
            )
    metric_rows, score_tables = [], []
    for detector in detectors:
        detector.fit(train, last_layer)
        id_scores = _scores(detector, id_test, "id/test")
        score_tables.append(_score_table(detector, "id", "test", id_test, id_scores))
        for (group, name), outputs in ood_sets.items():
            ood_scores = _scores(detector, outputs, f"{group}/{name}")
            score_tables.append(_score_table(detector, group, name, outputs, ood_scores))
            row = {"detector": detector.name, "group": group, "ood_set": name}
            metric_rows.append(row | asdict(ood_metrics(id_scores, ood_scores)))
    return Evaluation(pd.DataFrame(metric_rows), pd.concat(score_tables, ignore_index=True))


def summarise(metrics_all_runs: pd.DataFrame) -> pd.DataFrame:
    """Average metrics over OOD sets, then over seeds.

    Args:
        metrics_all_runs: `Evaluation.metrics` of all checkpoints in one table, with the columns arm and seed too.

    Returns:
        One row per arm, detector and group, in the order they first appear: arm, detector, group, num_seeds, then
        `{metric}_mean` and `{metric}_std` for each of `METRICS`. Each seed's value is the unweighted mean over the
        sets of its group; the std is over seeds, with ddof 0 (so 0 for one seed).

    Raises:
        EvaluationError: no row, a missing column or value, a row twice, or runs that saw different OOD sets.

    Source: OpenOOD v1.5, arXiv:2306.09301.
    """
    _check_runs(metrics_all_runs)
    per_seed = metrics_all_runs.groupby(_RUN_KEYS, sort=False)[list(METRICS)].mean().reset_index()
    over_seeds = per_seed.groupby(["arm", "detector", "group"], sort=False)
    columns = {"num_seeds": over_seeds["seed"].nunique()}
    for metric in METRICS:
        columns[f"{metric}_mean"] = over_seeds[metric].mean()
        columns[f"{metric}_std"] = over_seeds[metric].std(ddof=0)
    return pd.DataFrame(columns).reset_index()


def id_accuracy(outputs: NetworkOutputs) -> float:
    """The share of ID images whose largest logit is their label's.

    Args:
        outputs: of an ID set.

    Returns:
        A fraction in [0, 1].

    Raises:
        EvaluationError: a label is -1, which means OOD.
    """
    unlabelled = (outputs.labels < 0).nonzero()
    if len(unlabelled):
        row = int(unlabelled[0])
        raise EvaluationError(
            f"id_accuracy.outputs must be of an ID set, got label {int(outputs.labels[row])} "
            f"for image_id {int(outputs.image_ids[row])}; give the ID test set."
        )
    return float((outputs.logits.argmax(dim=1) == outputs.labels).double().mean())


def _scores(detector: Detector, outputs: NetworkOutputs, where: str) -> Float64Array:
    scores: Float64Array = detector.score(outputs).detach().cpu().numpy().astype(np.float64)
    unusable = np.flatnonzero(~np.isfinite(scores))
    if len(unusable):
        row = int(unusable[0])
        raise EvaluationError(
            f"ood_score of {detector.name} must be finite, got {scores[row]} for image_id "
            f"{int(outputs.image_ids[row])} of {where} ({len(unusable)} of {len(scores)} images); "
            "look for features or logits that overflow."
        )
    return scores


def _score_table(
    detector: Detector, group: str, image_set: str, outputs: NetworkOutputs, scores: Float64Array
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "detector": detector.name,
            "group": group,
            "image_set": image_set,
            "image_id": outputs.image_ids.cpu().numpy(),
            "ood_score": scores,
        }
    )


def _check_runs(runs: pd.DataFrame) -> None:
    keys = [*_RUN_KEYS, "ood_set"]
    missing = [column for column in (*keys, *METRICS) if column not in runs.columns]
    if missing:
        raise EvaluationError(
            f"summarise.metrics_all_runs must have all columns, got none named {', '.join(missing)}; "
            "add arm and seed to the metrics of each checkpoint."
        )
    if runs.empty:
        raise EvaluationError("summarise.metrics_all_runs must have rows, got 0; evaluate a checkpoint first.")
    # A mean would skip what is missing in silence.
    for rule, broken in (
        ("without missing values", runs[[*keys, *METRICS]].isna().any(axis=1)),
        ("without repeats", runs.duplicated(keys)),
    ):
        if broken.any():
            arm, seed, detector, group, ood_set = runs.loc[broken, keys].iloc[0]
            raise EvaluationError(
                f"summarise.metrics_all_runs must be {rule}, got a row that breaks this for arm {arm!r}, seed {seed}, "
                f"{detector}, {group}/{ood_set}; evaluate that run again."
            )
    paths = runs["group"] + "/" + runs["ood_set"]
    every = frozenset(paths)
    for (arm, seed, detector), of_run in paths.groupby([runs["arm"], runs["seed"], runs["detector"]], sort=False):
        absent = sorted(every - frozenset(of_run))
        if absent:
            raise EvaluationError(
                f"summarise.metrics_all_runs must have the same OOD sets in every run, got none of {', '.join(absent)} "
                f"for {detector} of arm {arm!r}, seed {seed}; evaluate all runs on the same sets."
            )
