"""What an evaluation leaves, put together from the parts of its networks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sio_ray.errors import EvaluationError
from sio_ray.evaluation.overlap import Overlap
from sio_ray.evaluation.scoring import ABOUT, PROJECTION
from sio_ray.ood.metrics import ood_metrics
from sio_ray.stages.evaluation_results import METRICS_NAME, PROJECTION_NAME, SCORES_NAME, Scored, write_results


def scored(arm: str, detectors: tuple[str, ...] = ("msp", "knn")) -> Scored:
    return Scored(arm, 0, detectors, lambda: pytest.fail("all parts are there"))


def leave_parts(network: Scored, folder, *, agreement, failed: str = "") -> pd.DataFrame:
    """What the tasks of a network would; the scores of its detectors."""
    parts = network.parts(folder)
    rng = np.random.default_rng(len(network.arm))
    parts.write(ABOUT, {"accuracy": 0.9, "agreement": agreement})
    points = pd.DataFrame({"group": "id", "image_set": "test", "image_id": [0], "label": [1], "x": [0.0], "y": [1.0]})
    parts.write(PROJECTION, {"shares": (0.4, 0.2)}, points)
    tables = []
    for detector in network.detectors:
        if detector == failed:
            parts.write(detector, {"failed": "it cannot"})
            continue
        id_scores, ood_scores = rng.normal(0, 1, 20), rng.normal(1, 1, 30)
        metrics = {"group": "near", "ood_set": "letters", **vars(ood_metrics(id_scores, ood_scores))}
        tried = [{"setting": {"k": k}, "val_auroc": value} for k, value in ((5, 0.7), (9, 0.8))]
        table = pd.DataFrame(
            {
                "group": ["id"] * 20 + ["near"] * 30,
                "image_set": ["test"] * 20 + ["letters"] * 30,
                "image_id": [*range(20), *range(30)],
                "ood_score": np.concatenate([id_scores, ood_scores]),
            }
        )
        values = {
            "metrics": [metrics],
            "full_spectrum": [],
            "setting": {"k": 9},
            "sweep": tried,
            "seconds": {"fit_s": 1},
        }
        parts.write(detector, values, table)
        tables.append(table.assign(detector=detector, arm=network.arm))
    return pd.concat(tables) if tables else pd.DataFrame()


def test_what_fails_for_one_network_is_left_out_for_all(tmp_path):
    both = [scored("baseline"), scored("sio")]
    kept = leave_parts(both[0], tmp_path, agreement=None)
    leave_parts(both[1], tmp_path, agreement=None, failed="knn")
    overlaps = [Overlap("near/test/letters", "id/train", 3, ((0, 1),))]
    result = write_results(both, tmp_path, {"num_copies": 0}, {"seconds": 2.0}, overlaps)
    measured = json.loads((tmp_path / METRICS_NAME).read_text())
    assert measured["failed"] == result["failed"] == {"knn": "sio, seed 0: it cannot"}
    assert [(row["arm"], row["detector"]) for row in measured["metrics"]] == [("baseline", "msp"), ("sio", "msp")]
    assert [row["val_auroc"] for row in measured["settings"]] == [0.8, 0.8]
    assert measured["quality"] == {"num_copies": 0}, "no network was asked for labels"
    assert measured["overlaps"] == [{"ood_set": "near/test/letters", "other_set": "id/train", "num_images": 3}]
    scores = pd.read_parquet(tmp_path / SCORES_NAME)
    mine = scores[scores["arm"] == "baseline"]
    assert set(scores["detector"]) == {"msp"}
    assert mine["ood_score"].tolist() == kept.loc[kept["detector"] == "msp", "ood_score"].tolist()
    assert len(pd.read_parquet(tmp_path / PROJECTION_NAME)) == 2
    assert (tmp_path / "openood/baseline/ood/msp.csv").is_file()


def test_the_full_spectrums_csv_has_the_accuracy_over_all_that_is_id_there(tmp_path):
    network = scored("sio", ("msp",))
    leave_parts(network, tmp_path, agreement=None)
    parts = network.parts(tmp_path)
    parts.write(ABOUT, {"accuracy": 0.9, "agreement": None, "full_spectrum_accuracy": 0.8})
    left = parts.read("msp")
    parts.folder.write_bytes("msp.json", json.dumps({**left, "full_spectrum": left["metrics"]}).encode())
    write_results([network], tmp_path, {}, {}, [])
    last = {
        scheme: (tmp_path / f"openood/sio_msp/s0/{scheme}/ood.csv").read_text().split()[-1].split(",")[-1]
        for scheme in ("ood", "fsood")
    }
    assert last == {"ood": "90.00", "fsood": "80.00"}


def test_where_nobody_looked_for_shared_images_none_are_denied(tmp_path):
    network = scored("sio", ("msp",))
    leave_parts(network, tmp_path, agreement=None)
    assert write_results([network], tmp_path, {}, {}, None)["overlaps"] is None
    assert write_results([network], tmp_path, {}, {}, [])["overlaps"] == []


def test_label_agreement_is_the_mean_over_networks_and_none_for_a_class_without_images(tmp_path):
    networks = [scored("baseline"), Scored("baseline", 1, ("msp", "knn"), lambda: pytest.fail("all parts are there"))]
    for network, right in zip(networks, (0.5, 1.0), strict=True):
        leave_parts(network, tmp_path, agreement={"mean": right, "by_class": [right, None, 1.0]})
    quality = write_results(networks, tmp_path, {}, {}, [])["quality"]
    assert quality == {"label_agreement": 0.75, "label_agreement_by_class": [0.75, None, 1.0]}


def test_an_evaluation_without_any_detector_names_the_first_failure(tmp_path):
    network = scored("sio", ("msp",))
    leave_parts(network, tmp_path, agreement=None, failed="msp")
    with pytest.raises(EvaluationError, match=r"^no detector can score .*; the first failure: sio, seed 0: it cannot$"):
        write_results([network], tmp_path, {}, {}, [])
