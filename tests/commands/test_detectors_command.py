"""`sio-ray detectors`: the table is whole, and one detector is shown with what can be set."""

from __future__ import annotations

import json

import pytest

from sio_ray.cli import main
from sio_ray.config.evaluate_section import PAPER_DETECTORS
from sio_ray.ood.detectors import DETECTORS


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["detectors", *arguments])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, " ".join(printed.err.split())


def test_all_are_listed_with_what_they_read_and_cost(capsys):
    code, _, shown = run(capsys)
    assert code in (0, None)
    assert all(name in shown for name in DETECTORS)
    assert "knn*" in shown
    assert "gram*" not in shown


def test_the_json_has_options_and_sweeps(capsys):
    _, out, _ = run(capsys, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == list(DETECTORS)
    assert rows["knn"]["options"] == {"k": 50}
    assert rows["knn"]["sweep"] == {"k": [50, 100, 200, 500, 1000]}
    assert rows["odin"]["reads"] == ["gradients"]
    assert rows["rank_feat"]["reads"] == ["feature_maps"]
    assert rows["mds_ens"]["reads"] == ["feature_maps", "gradients"]
    assert {name for name, row in rows.items() if row["in_sio_paper"]} == set(PAPER_DETECTORS)
    assert all(row["paper"] and row["cost"] and row["what"] for row in rows.values())


def test_one_is_shown_with_what_can_be_set(capsys):
    _, _, shown = run(capsys, "knn")
    assert "evaluate.detector_options.knn.k=50 (a sweep tries 50, 100, 200, 500, 1000)" in shown
    assert "Sun et al., ICML 2022" in shown


def test_an_unknown_one_is_refused(capsys):
    code, _, shown = run(capsys, "odn")
    assert code == 2
    assert shown.startswith("error: NAME must be among msp, ")
    assert shown.endswith("got 'odn'; did you mean odin.")
