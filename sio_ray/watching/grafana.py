"""A Grafana dashboard of the metrics: `python -m sio_ray.watching.grafana > jobs/grafana/sio_ray.json`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

from sio_ray.watching.metrics import METRICS

#: Ray exports a metric under its name with this before it.
EXPORTED_PREFIX = "ray_"

#: Grafana's 24 columns hold three panels side by side.
_WIDTH, _HEIGHT = 8, 8


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        title: above it.
        curves: PromQL to its legend, where `{METRIC:STAGES:LABELS}` stands for the series of a metric.
        unit: of Grafana.
        from_zero: whether the axis begins there.
        stacked: whether curves are put on top of each other.
        bars: whether it shows how it is now, as bars, rather than curves.
    """

    title: str
    curves: dict[str, str]
    unit: str = "short"
    from_zero: bool = True
    stacked: bool = False
    bars: bool = False


def _progress(stage: str) -> Panel:
    return Panel(
        "Progress",
        {f"max by (run, part) ({{sio_progress_ratio:{stage}}})": "{{run}}: {{part}}"},
        "percentunit",
        bars=True,
    )


def _of_pool(stage: str) -> tuple[Panel, ...]:
    return (
        Panel("Images per second, all actors", {f"sum(rate({{sio_images_total:{stage}}}))": "all"}),
        Panel(
            "Images per second, by actor", {f"sum by (actor) (rate({{sio_images_total:{stage}}}))": "actor {{actor}}"}
        ),
        Panel(
            "Shards done, failed, retried, set aside",
            {f"sum by (outcome) ({{sio_shards_total:{stage}}})": "{{outcome}}"},
        ),
        Panel(
            "Seconds per shard, by what they went into",
            {
                f"sum by (part) (rate({{sio_shard_seconds_total:{stage}}})) / ignoring(part) group_left "
                f'sum(rate({{sio_shards_total:{stage}:outcome="done"}}))': "{{part}}"
            },
            "s",
            stacked=True,
        ),
        Panel(
            "Actors at work, and deaths",
            {
                f"sum({{sio_actors:{stage}}})": "at work",
                f"sum({{sio_actor_deaths_total:{stage}}})": "died so far",
            },
        ),
    )


_BY_RUN, _RUN = "sum by (stage, arm, seed, member)", "{{stage}} {{arm}} seed {{seed}}.{{member}}"
_TRAINING = "train|fit-generator"


def _per_step(seconds: str) -> str:
    return f"{_BY_RUN} (rate({{{seconds}:{_TRAINING}}})) / {_BY_RUN} (rate({{sio_train_steps_total:{_TRAINING}}}))"


def _score(title: str, metric: str) -> Panel:
    return Panel(title, {f'{{sio_trial_score_ratio:tune:metric="{metric}"}}': "{{of}}"}, "percentunit", from_zero=False)


ROWS: dict[str, tuple[Panel, ...]] = {
    "Generation": (_progress("generate"), *_of_pool("generate")),
    "Training": (
        _progress(_TRAINING),
        Panel("Loss", {f"{{sio_train_loss:{_TRAINING}}}": _RUN}, from_zero=False),
        Panel("ID validation accuracy", {"{sio_train_val_accuracy_ratio:train}": _RUN}, "percentunit", from_zero=False),
        Panel("Seconds per step", {_per_step("sio_train_step_seconds_total"): _RUN}, "s"),
        Panel("Of these, waiting for the feed", {_per_step("sio_train_feed_wait_seconds_total"): _RUN}, "s"),
        Panel("Images per second", {f"{_BY_RUN} (rate({{sio_train_images_total:{_TRAINING}}}))": _RUN}),
        Panel(
            "Share of time in validation and checkpoints",
            {f"{_BY_RUN} (rate({{sio_train_report_seconds_total:{_TRAINING}}}))": _RUN},
            "percentunit",
        ),
        Panel("Restarts, as workers were lost", {f"{_BY_RUN} ({{sio_train_restarts_total:{_TRAINING}}})": _RUN}),
    ),
    "Tuning": (
        _progress("tune"),
        Panel("Trials", {"sum by (state) ({sio_trials:tune})": "{{state}}"}, stacked=True),
        _score("Near-OOD AUROC, validation", "near_auroc"),
        _score("ID accuracy, validation", "val_accuracy"),
        Panel(
            "Seconds of trials, training and judging",
            {"sum by (part) ({sio_trial_seconds_total:tune})": "{{part}}"},
            "s",
            stacked=True,
        ),
    ),
    "Evaluation": (_progress("evaluate"), *_of_pool("evaluate")),
}

#: A metric in an expression: its name, its stages, and what else its labels must be.
_REFERENCE = re.compile(r"\{(sio_\w+):([\w|-]+)(?::([^{}]+))?\}")


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": _place(0, y, 24, 1), "panels": []})
        y += 1
        for number, panel in enumerate(row):
            place = _place(_WIDTH * (number % 3), y + _HEIGHT * (number // 3), _WIDTH, _HEIGHT)
            panels.append(_drawn(panel, place))
        y += _HEIGHT * -(-len(row) // 3)
    return {
        "title": "sio_ray",
        "uid": "sio-ray",
        "description": "Generation, training, tuning and evaluation of sio_ray, by the metrics that Ray exports.",
        "tags": ["ray", "sio_ray"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source(), _run()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, start=1)],
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run() -> dict[str, Any]:
    query = f"label_values({EXPORTED_PREFIX}sio_progress_ratio, run)"
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "definition": query,
        "query": {"query": query, "refId": "run"},
        "refresh": 2,  # whenever the time range changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _drawn(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    names = dict.fromkeys(match[1] for curve in panel.curves for match in _REFERENCE.finditer(curve))
    defaults: dict[str, Any] = {"unit": panel.unit, **({"min": 0} if panel.from_zero else {})}
    if panel.bars:
        defaults["max"] = 1
    elif panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 30}
    return {
        "type": "bargauge" if panel.bars else "timeseries",
        "title": panel.title,
        "description": "\n\n".join(f"`{EXPORTED_PREFIX}{name}`: {METRICS[name].description}" for name in names),
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"orientation": "horizontal"} if panel.bars else {"legend": {"showLegend": True}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": source,
                "expr": promql(curve),
                "legendFormat": legend,
                "instant": panel.bars,
            }
            for number, (curve, legend) in enumerate(panel.curves.items())
        ],
    }


def promql(curve: str) -> str:
    """A panel's expression as Prometheus reads it."""

    def series(match: re.Match[str]) -> str:
        name, stages, others = match.groups()
        assert name in METRICS, f"no metric is called {name}"
        labels = ['run=~"$run"', f'stage=~"{stages}"', *([others] if others else [])]
        return f"{EXPORTED_PREFIX}{name}{{{','.join(labels)}}}"

    return re.sub(r"rate\((\w+\{[^{}]*\})\)", r"rate(\1[$__rate_interval])", _REFERENCE.sub(series, curve))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
