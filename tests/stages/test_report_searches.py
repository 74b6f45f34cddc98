"""The searches of an experiment that its report names."""

import re

import pytest

from sio_ray.config import load_config
from sio_ray.report.page import render_report
from sio_ray.stages.layout import report_place
from sio_ray.stages.record import RECORD_NAME, StageRecord
from sio_ray.stages.report_searches import searches_of
from tests.report_study import make_data

RESULT = {
    "objectives": ["near_auroc"],
    "best": 2,
    "best_values": {"train.real_weight": 0.7},
    "trials": [
        {"index": 0, "phase": "search", "near_auroc": 0.9},
        {"index": 1, "phase": "search", "near_auroc": None},
        {"index": 2, "phase": "search", "near_auroc": 0.92},
        {"index": 3, "phase": "confirm", "near_auroc": 0.9},
        {"index": 4, "phase": "confirm", "near_auroc": 0.905},
    ],
    "confirmation": {"seeds": [1, 2], "gain": 0.005, "gain_std": 0.002},
}


def write_search(config, name, result, finished="2026-01-02T03:04:05+00:00"):
    folder = config.run_dir / name
    folder.mkdir(parents=True)
    record = StageRecord(
        stage="tune",
        identity={},
        config={},
        versions={},
        machine="2 CPU cores",
        git_commit=None,
        finished=finished,
        wall_s=1.0,
        result=result,
    )
    (folder / RECORD_NAME).write_text(record.model_dump_json())


@pytest.fixture
def config(tmp_path):
    return load_config("digits", [f"output_dir={tmp_path}"])


def test_finished_searches_are_summed_up_the_oldest_first(config):
    assert searches_of(config) == []
    none = {**RESULT, "best": 0, "best_values": {"train.arms": ["baseline"]}, "confirmation": None}
    write_search(config, "tune-b", RESULT)
    write_search(config, "tune-a", none, finished="2026-01-03T00:00:00+00:00")
    (config.run_dir / "tune-unfinished").mkdir()
    first, second = searches_of(config)
    assert (first.page, first.num_trials, first.values) == ("tune-b/search.html", 2, {"train.real_weight": 0.7})
    assert first.gain == pytest.approx(0.02)
    assert (first.confirmed_gain, first.confirmed_std) == (0.005, 0.002)
    assert (second.values, second.gain, second.confirmed_gain) == ({}, 0.0, None)


def test_the_page_names_them_and_links_to_theirs(config):
    assert 'id="search"' not in render_report(make_data())
    write_search(config, "tune-b", {**RESULT, "best_values": {"train.network": "<script>"}})
    page = render_report(make_data(searches=searches_of(config)))
    section = page[page.index('<section id="search">') : page.index('<section id="cost">')]
    assert '<a href="tune-b/search.html">2026-01-02 03:04 UTC</a>' in section
    assert "&lt;script&gt;" in section
    text = " ".join(re.sub("<[^>]*>", " ", section).replace("&nbsp;", " ").split())
    assert "2 trials train.network &lt;script&gt; +2.0 +0.5 ± 0.2" in text
    assert '<a href="#search">' in page


def test_a_later_search_makes_another_page(config):
    assert report_place(config) == report_place(config, [])
    assert report_place(config).fingerprint != report_place(config, ["tune-b/search.html"]).fingerprint
