"""Laws of the page of several runs: each run's own numbers, means over what all have, and what differs."""

from __future__ import annotations

import dataclasses
import re

import pytest
from report_study import make_data

from sio_ray.config import with_overrides
from sio_ray.report.comparison import AUROC
from sio_ray.report.comparison_page import config_changes, render_comparison
from sio_ray.report.tables import detector_table, metric_table, run_table
from sio_ray.report.verdict import verdict


@pytest.fixture(scope="module")
def runs(data):
    other = make_data(name="weight09", shift=-0.2, config=with_overrides(data.config, {"train.real_weight": 0.9}))
    lacking = make_data(name="one <arm>", arms=("baseline",), config=None)
    return [data, other, dataclasses.replace(lacking, metrics=lacking.metrics[lacking.metrics["detector"] != "vim"])]


def test_every_run_has_its_own_numbers_in_every_table(runs):
    for group in ("near", "far"):
        table = detector_table(runs, AUROC, group)
        assert list(table.columns) == [run.name for run in runs]
        for run in runs[:2]:
            alone = metric_table(run, AUROC)
            for row, of_run in zip(table.rows, alone.rows, strict=True):
                assert row.names == of_run.names
                assert row.cells[run.name] == of_run.cells[group]
        assert table.rows[-1].cells["one <arm>"].baseline is None


def test_means_are_over_the_detectors_that_all_runs_have(runs):
    shared = runs[0].metrics["detector"] != "vim"
    alone = metric_table(dataclasses.replace(runs[0], metrics=runs[0].metrics[shared]), AUROC)
    assert run_table(runs).rows[0].cells["near"] == alone.mean.cells["near"]
    assert detector_table(runs, AUROC, "far").mean.cells["digits"] == alone.mean.cells["far"]
    html = render_comparison(runs)
    assert "Mean AUROC over the 5 detectors that all runs have" in html
    assert "it leaves out ViM" in html


def test_the_page_is_escaped_and_asks_the_network_for_nothing(runs):
    html = render_comparison(runs)
    assert html == render_comparison(runs)
    assert "<arm>" not in html
    assert "one &lt;arm&gt;" in html
    assert "://" not in html
    assert html.count("<script") == 1
    for run in runs:
        assert " ".join(verdict(run).split()).replace("'", "&#39;") in " ".join(html.split())
    assert "The config was not recorded." in html


def test_only_what_decides_figures_and_differs_is_listed(runs):
    moved = dataclasses.replace(
        runs[0], config=with_overrides(runs[0].config, {"output_dir": "elsewhere", "report.detector": "knn"})
    )
    assert config_changes([runs[0], moved]) == {}
    assert config_changes(runs) == {"train.real_weight": ["0.8", "0.9", "unknown"]}
    assert "The configs of all runs are the same." in render_comparison(
        [runs[0], dataclasses.replace(moved, name="moved")]
    )


def test_runs_without_a_common_detector_are_not_averaged(data):
    apart = [
        dataclasses.replace(data, name=name, metrics=data.metrics[data.metrics["detector"] == name])
        for name in ("msp", "knn")
    ]
    assert list(run_table(apart).columns) == ["id"]
    html = render_comparison(apart)
    assert "0 detectors that all runs have" in re.sub(r"\s+", " ", html)
