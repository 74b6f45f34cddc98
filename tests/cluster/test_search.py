"""The search: the baseline among the trials, only validation sets read, and only missing trials run again."""

import json

import pandas as pd
import pytest

import sio_ray.tune
from sio_ray.config import load_config
from sio_ray.imageset import ImageSet
from sio_ray.stages.prepared_sets import PreparedSets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def config(finished, tmp_path):
    overrides, _, _ = finished
    space = tmp_path / "space.py"
    space.write_text('SPACE = {"train.real_weight": ("grid", [0.5, 0.75])}\n')
    # A recipe of its own, so that no search of another test is found.
    return load_config("digits", [*overrides, f"tune.space={space}", "tune.seeds=[7,8]", "train.momentum=0.8"])


def test_a_search_continues_reads_no_test_set_and_names_a_config_that_loads(config, monkeypatch, capsys):
    opened = []
    init = ImageSet.__init__
    # Whatever workers decode, the driver has opened first.
    monkeypatch.setattr(ImageSet, "__init__", lambda self, uri: opened.append(str(uri)) or init(self, uri))

    outcome = sio_ray.tune.tune(config)
    assert opened
    assert not [uri for uri in opened if "/test" in uri]
    assert set(PreparedSets(config, "tune").ood("val")) >= {("near", "digits_6_9"), ("far", "letters")}

    trials = outcome.result["trials"]
    assert [trial["values"] for trial in trials] == [
        {"arm": "baseline"},
        {"arm": "sio", "train.real_weight": 0.5},
        {"arm": "sio", "train.real_weight": 0.75},
    ]
    assert all(trial["num_seeds"] == 2 for trial in trials)
    best = max(trials, key=lambda trial: trial["near_auroc"])
    assert outcome.result["best"] == best
    chosen = load_config(str(outcome.output / "best.yaml"))
    if best["arm"] == "sio":
        assert chosen.train.real_weight == best["values"]["train.real_weight"]
    else:
        assert chosen.train.arms == ("baseline",)
    assert len(pd.read_parquet(outcome.output / "trials.parquet")) == 3
    assert capsys.readouterr().out == "", "standard output is for --json alone"

    # As after a kill: one trial and the end are missing.
    (outcome.output / "stage.json").unlink()
    (outcome.output / "trial-0001.json").unlink()
    kept = {name: (outcome.output / name).stat().st_mtime_ns for name in ("trial-0000.json", "trial-0002.json")}
    again = sio_ray.tune.tune(config)
    assert {name: (outcome.output / name).stat().st_mtime_ns for name in kept} == kept

    def without_time(result):
        return json.loads(json.dumps(result), object_hook=lambda row: {k: v for k, v in row.items() if k != "train_s"})

    assert without_time(again.result) == without_time(outcome.result)
    assert "2 of 3 trials are done already" in capsys.readouterr().err
