"""The dashboard that ships is the one that the metrics make, and shows each of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sio_ray.config import STAGES
from sio_ray.watching.grafana import ROWS, dashboard, promql
from sio_ray.watching.metrics import METRICS, RUN_TAGS

SHIPPED = Path(__file__).parents[2] / "jobs" / "grafana" / "sio_ray.json"
PANELS = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_what_ships_is_what_the_metrics_make() -> None:
    assert json.loads(SHIPPED.read_text()) == dashboard(), (
        "run `python -m sio_ray.watching.grafana > jobs/grafana/sio_ray.json`"
    )


def test_every_metric_is_drawn_and_no_other() -> None:
    assert {name for text in EXPRESSIONS for name in re.findall(r"ray_(\w+)", text)} == set(METRICS)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_labels_that_its_metrics_have_and_stages_that_there_are(expression: str) -> None:
    for name, labels in re.findall(r"ray_(\w+)\{(.*?)\}", expression):
        tags = {*RUN_TAGS, *METRICS[name].tags}
        assert set(re.findall(r"(\w+)=", labels)) <= tags
        for by in re.findall(r"by \(([^)]*)\)", expression):
            assert set(by.split(", ")) <= {tag for metric in METRICS.values() for tag in metric.tags} | set(RUN_TAGS)
        (stages,) = re.findall(r'stage=~"(.*?)"', labels)
        assert set(stages.split("|")) <= set(STAGES)
        counted = f"rate(ray_{name}{{{labels}}}[$__rate_interval])" in expression
        assert not counted or METRICS[name].kind == "counter", "a gauge has no rate"
    assert not re.search(r"rate\([^[]*\)", expression), "every rate is over an interval"


def test_panels_do_not_overlap() -> None:
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_a_series_is_of_the_runs_and_stages_that_are_asked_for() -> None:
    assert promql('sum(rate({sio_shards_total:generate:outcome="done"}))') == (
        'sum(rate(ray_sio_shards_total{run=~"$run",stage=~"generate",outcome="done"}[$__rate_interval]))'
    )
    with pytest.raises(AssertionError, match="no metric is called sio_nothing"):
        promql("{sio_nothing:generate}")
    assert list(ROWS) == ["Generation", "Training", "Tuning", "Evaluation"]
