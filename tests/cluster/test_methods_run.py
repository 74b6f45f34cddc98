"""Methods of two trainings in one run: networks that are there are kept, and their rows stand in one table."""

import json
from pathlib import Path

import pandas as pd
import pytest

from sio_ray.cli import run_stages
from sio_ray.config import load_config
from sio_ray.stages.layout import run_order

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METHODS = ["msp", "energy", "vos"]


@pytest.fixture(scope="module")
def joined(finished):
    """Config, and the outcomes of its stages, of a run that shares all but VOS with the one before."""
    overrides, _, _ = finished
    config = load_config("digits", [*overrides, f"methods=[{','.join(METHODS)}]"])
    return config, run_stages(config, run_order(config))


def test_only_what_other_methods_lack_is_trained(finished, joined):
    _, _, before = finished
    runs = joined[1]["train"]["result"]
    assert set(runs) == {"baseline, seed 0", "sio, seed 0", "baseline, vos, seed 0", "sio, vos, seed 0"}
    for name, run in before["train"]["result"].items():
        assert runs[name] == run
    assert "-vos-" in runs["sio, vos, seed 0"]["checkpoint"]


def test_every_row_of_the_table_is_of_its_own_networks(joined):
    config, outcomes = joined
    folder = Path(outcomes["evaluate"]["output"])
    measured = json.loads((folder / "metrics.json").read_text())
    metrics = pd.DataFrame(measured["metrics"])
    assert list(dict.fromkeys(metrics["detector"])) == METHODS
    accuracy = pd.DataFrame(measured["id_accuracy"]).set_index(["arm", "detector"])["accuracy"]
    assert len(accuracy) == 2 * len(METHODS)
    parts = {path.parent: json.loads(path.read_text()) for path in config.run_dir.glob("evaluate-*/metrics.json")}
    (of_vos,) = (part for part in parts.values() if {row["detector"] for row in part["metrics"]} == {"energy"})
    for row in of_vos["metrics"]:
        keys = {name: row[name] for name in ("arm", "group", "ood_set")}
        found = metrics[(metrics[list(keys)] == pd.Series(keys)).all(axis=1) & (metrics["detector"] == "vos")]
        assert found["auroc"].tolist() == [row["auroc"]]
    for row in of_vos["id_accuracy"]:
        assert accuracy[row["arm"], "vos"] == row["accuracy"]
    scores = pd.read_parquet(folder / "scores.parquet")
    counts = scores.groupby(["arm", "detector"]).size()
    assert len(counts) == 2 * len(METHODS)
    assert counts.nunique() == 1
    assert {path.name for path in (folder / "openood/sio/ood").iterdir()} == {"msp.csv", "ebo.csv", "vos.csv"}


def test_the_report_has_them_as_rows(joined):
    config, _ = joined
    page = (config.run_dir / "report.html").read_text()
    assert "arXiv:2202.01197" in page
    assert "over 3 methods" in page


def test_a_second_run_does_nothing(joined):
    config, first = joined
    again = run_stages(config, run_order(config))
    assert all(outcome["reused"] for outcome in again.values())
    assert again["evaluate"]["result"] == first["evaluate"]["result"]
