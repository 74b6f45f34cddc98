"""The figures of one or more evaluations as plain rows, and these as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from sio_ray.report.comparison import Comparison, Estimate, by_set, compare, compare_means
from sio_ray.report.data import Evaluation
from sio_ray.report.tables import arms_of, id_accuracy, metrics_of, setting_rows, shared_detectors
from sio_ray.report.verdict import verdict


def figure_rows(data: Evaluation) -> list[dict[str, Any]]:
    """Every figure of the tables, in full precision, as a fraction.

    Returns:
        One dict per metric, detector (`mean` over those that every run has) and OOD set (`mean` over its group):
        run, metric (`full_spectrum_...` with covariate-shifted images among ID), detector, group, ood_set,
        of each arm `_mean`, `_std` and `_num_seeds`, difference, noise,
        beyond_noise. ID accuracy, the last, has no detector, group and set. What is not there is None.
    """
    shared = shared_detectors(data)
    rows = []
    for metrics, prefix in ((data.metrics, ""), (data.full_spectrum, "full_spectrum_")):
        for metric in [metric for metric in metrics_of(data) if len(metrics)]:
            for runs in (metrics, by_set(metrics)):
                means = {("mean", place): cell for place, cell in compare_means(runs, shared, metric).items()}
                for (detector, place), cell in {**compare(runs, metric), **means}.items():
                    group, _, ood_set = place.partition("/")
                    rows.append(_row(data.name, prefix + metric.key, detector, group, ood_set or "mean", cell))
    if len(data.id_accuracy):
        rows.append(_row(data.name, "id_accuracy", None, None, None, id_accuracy(data)))
    return rows


def to_csv(runs: Sequence[Evaluation]) -> str:
    """`figure_rows` of all runs as CSV with a heading."""
    rows = [row for run in runs for row in figure_rows(run)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_json(runs: Sequence[Evaluation]) -> str:
    """All runs with their verdict, figures, settings, costs, config and provenance."""
    return json.dumps({"runs": [_run(run) for run in runs]}, indent=1, allow_nan=False) + "\n"


def _run(data: Evaluation) -> dict[str, Any]:
    return {
        "name": data.name,
        "verdict": " ".join(verdict(data).split()),
        "arms": list(arms_of(data)),
        "detectors": [
            {"name": name, "title": row.title, "paper": row.paper, "num_settings_tried": row.num_tried}
            for name, row in zip(dict.fromkeys(data.metrics["detector"]), setting_rows(data), strict=True)
        ],
        "figures": figure_rows(data),
        "settings": list(data.settings),
        "costs": list(data.costs),
        "extraction": dict(data.extraction),
        "overlaps": None if data.overlaps is None else list(data.overlaps),
        "provenance": dict(data.provenance),
        "commands": list(data.commands),
        "config": None if data.config is None else data.config.model_dump(mode="json"),
    }


def _row(
    run: str, metric: str, detector: str | None, group: str | None, ood_set: str | None, cell: Comparison
) -> dict[str, Any]:
    row = {"run": run, "metric": metric, "detector": detector, "group": group, "ood_set": ood_set}
    row |= _estimate("baseline", cell.baseline) | _estimate("sio", cell.sio)
    return row | {"difference": cell.difference, "noise": cell.noise, "beyond_noise": cell.beyond_noise}


def _estimate(arm: str, value: Estimate | None) -> dict[str, Any]:
    fields = (None, None, None) if value is None else (value.mean, value.std, value.num_seeds)
    return dict(zip((f"{arm}_mean", f"{arm}_std", f"{arm}_num_seeds"), fields, strict=True))
