"""Means of metrics over OOD sets, then over seeds, as OpenOOD v1.5 reports them."""

from __future__ import annotations

import pandas as pd

from sio_ray.errors import EvaluationError
from sio_ray.ood.protocol import METRICS

_RUN_KEYS = ["arm", "seed", "detector", "group"]


def summarise(metrics_all_runs: pd.DataFrame) -> pd.DataFrame:
    """Average metrics over OOD sets, then over seeds.

    Args:
        metrics_all_runs: `DetectorEvaluation.metrics` of all detectors and networks in one table, with the columns arm,
            seed and detector too.

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
