"""Evaluations of several trainings become one, whose detectors are methods."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_evaluation_results import leave_parts, scored

from sio_ray.config import load_config
from sio_ray.errors import EvaluationError
from sio_ray.evaluation.overlap import Overlap
from sio_ray.stages.evaluation_results import METRICS_NAME, PROJECTION_NAME, SCORES_NAME, write_results
from sio_ray.stages.method_results import join_results
from sio_ray.stages.trainings import trainings

#: Of ID test and near-OOD in `leave_parts`.
NUM_IMAGES = 50


@pytest.fixture
def parts(tmp_path):
    """Three trainings, each evaluated in both arms; KNN has failed in the first."""
    overlaps = [Overlap("near/test/letters", "id/train", 3, ((0, 1),))]
    found = []
    for training in trainings(load_config("digits", ["methods=[knn,msp,vos,deep_ensemble]"])):
        folder = tmp_path / training.name.replace(" ", "")
        networks = [scored(arm, training.config.evaluate.detectors) for arm in ("baseline", "sio")]
        for network in networks:
            leave_parts(network, folder, agreement=None, failed="knn")
        quality = {"num_copies": len(found)}
        write_results(networks, folder, quality, {"seconds": 2.0, "num_images": 9}, overlaps)
        found.append((training, folder))
    return found


def test_rows_go_by_the_names_of_methods_in_the_tables_order(parts, tmp_path):
    (tmp_path / "joint").mkdir()
    result = join_results(parts, tmp_path / "joint")
    measured = json.loads((tmp_path / "joint" / METRICS_NAME).read_text())
    rows = [(row["arm"], row["detector"]) for row in measured["metrics"]]
    assert rows == [(arm, name) for arm in ("baseline", "sio") for name in ("msp", "vos", "deep_ensemble")]
    assert [row["detector"] for row in result["summary"]] == [name for _, name in rows]
    for name in ("settings", "costs"):
        assert [(row["arm"], row["detector"]) for row in measured[name]] == rows
    assert list(measured["failed"]) == ["knn"]
    assert measured["extraction"] == {"seconds": 6.0, "num_images": 27}
    assert measured["overlaps"] == [{"ood_set": "near/test/letters", "other_set": "id/train", "num_images": 3}]
    assert measured["quality"] == {"num_copies": 0}, "of the first"
    assert {row["detector"] for row in measured["id_accuracy"]} == {"knn", "msp", "vos", "deep_ensemble"}


def test_every_score_is_kept_in_a_row_group_of_its_network(parts, tmp_path):
    (tmp_path / "joint").mkdir()
    join_results(parts, tmp_path / "joint")
    file = pq.ParquetFile(tmp_path / "joint" / SCORES_NAME)
    assert file.num_row_groups == 6
    joined = file.read().to_pandas()
    assert joined.groupby(["arm", "detector"]).size().to_dict() == {
        (arm, name): NUM_IMAGES for arm in ("baseline", "sio") for name in ("msp", "vos", "deep_ensemble")
    }
    of_vos = pd.read_parquet(parts[1][1] / SCORES_NAME)["ood_score"]
    assert joined.loc[joined["detector"] == "vos", "ood_score"].tolist() == of_vos.tolist()
    assert len(pd.read_parquet(tmp_path / "joint" / PROJECTION_NAME)) == 2
    names = {path.name for path in (tmp_path / "joint/openood/sio/ood").iterdir()}
    assert names == {"msp.csv", "vos.csv", "deep_ensemble.csv"}


def test_a_part_that_cannot_be_read_is_named(parts, tmp_path):
    (parts[2][1] / METRICS_NAME).write_text("[]")
    with pytest.raises(EvaluationError, match=r"cross_entropy,3networks/metrics\.json cannot be read \(.*\); delete"):
        join_results(parts, tmp_path)
