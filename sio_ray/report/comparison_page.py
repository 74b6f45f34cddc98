"""Render several evaluations on one page: a row per run, and every detector with the runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from sio_ray.config import to_yaml
from sio_ray.report import comparison, plots, tables
from sio_ray.report.data import Evaluation
from sio_ray.report.page import render
from sio_ray.report.verdict import verdict

#: Sections of the config that say where and how to work, or what to show; no figure depends on them.
_IDLE_SECTIONS = ("tune", "report", "cluster")


def render_comparison(runs: Sequence[Evaluation]) -> str:
    """Draw the page of several evaluations.

    Args:
        runs: at least two, of different names.

    Returns:
        HTML, as self-contained as `render_report`'s.

    Raises:
        EvaluationError: a run without metrics, or one whose seeds do not fit together.
    """
    groups = [group for group in comparison.GROUPS if any(group in set(run.metrics["group"]) for run in runs)]
    overview = tables.run_table(runs)
    shared = tables.shared_detectors(*runs)
    return render(
        "comparison.html.jinja",
        runs=runs,
        verdicts={run.name: verdict(run) for run in runs},
        seed_counts={run.name: tables.seed_count(run) for run in runs},
        arms=tables.arms_of(*runs),
        overview=overview,
        num_shared=len(shared),
        unshared=sorted(
            {run.title_of(name) for run in runs for name in tables.detectors_of(run)}
            - {run.title_of(name) for run in runs for name in shared}
        ),
        plots={group: Markup(plots.draw_comparison(overview, group, of="run")) for group in groups if shared},
        metric_tables=[
            (metric, [(group, tables.detector_table(runs, metric, group)) for group in groups])
            for metric in tables.metrics_of(*runs)
        ],
        changes=config_changes(runs),
        configs={run.name: to_yaml(run.config) for run in runs if run.config},
    )


def config_changes(runs: Sequence[Evaluation]) -> dict[str, list[str]]:
    """Field of the config to its value in each run, of the fields in which they differ; `unknown` without a config."""
    values = [_decisive(run) for run in runs]
    keys = dict.fromkeys(key for of_run in values if of_run for key in of_run)
    rows = {key: ["unknown" if of_run is None else str(of_run.get(key, "")) for of_run in values] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row) - {"unknown"}) > 1}


def _decisive(run: Evaluation) -> dict[str, Any] | None:
    """The fields that decide figures, flat: `train.real_weight` to its value."""
    if run.config is None:
        return None
    sections = [name for name in type(run.config).model_fields if hasattr(getattr(run.config, name), "identity")]
    return {
        f"{section}.{name}": value
        for section in sections
        if section not in _IDLE_SECTIONS
        for name, value in _flat(getattr(run.config, section).identity()).items()
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
