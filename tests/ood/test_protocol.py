"""The protocol: tables of one checkpoint, and means over sets and seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from trained_digits import TrainedDigits

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors import DETECTORS, build_detectors
from sio_ray.ood.detectors.msp import MSP
from sio_ray.ood.metrics import ood_metrics
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.protocol import METRICS, Evaluation, Group, evaluate_checkpoint, id_accuracy, summarise


def ood_sets(digits: TrainedDigits) -> dict[tuple[Group, str], NetworkOutputs]:
    return {("near", "digits"): digits.near, ("far", "noise"): digits.far}


@pytest.fixture(scope="module")
def evaluation(digits: TrainedDigits) -> Evaluation:
    return evaluate_checkpoint(
        digits.train, digits.id_test, ood_sets(digits), digits.last_layer, build_detectors(list(DETECTORS))
    )


def test_one_row_per_detector_and_set(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    assert list(metrics.columns) == ["detector", "group", "ood_set", "auroc", "fpr_at_95_tpr", "aupr_out", "aupr_in"]
    keys = list(metrics[["detector", "group", "ood_set"]].itertuples(index=False, name=None))
    assert keys == [(d, g, s) for d in DETECTORS for g, s in (("near", "digits"), ("far", "noise"))]
    assert metrics[list(METRICS)].stack().between(0, 1).all()


def test_every_image_is_scored_once_by_every_detector(evaluation: Evaluation, digits: TrainedDigits) -> None:
    scores = evaluation.scores
    assert list(scores.columns) == ["detector", "group", "image_set", "image_id", "ood_score"]
    expected = {("id", "test"): digits.id_test, ("near", "digits"): digits.near, ("far", "noise"): digits.far}
    for keys, of_set in scores.groupby(["detector", "group", "image_set"]):
        assert of_set["image_id"].tolist() == expected[keys[1:]].image_ids.tolist()
    assert len(scores) == len(DETECTORS) * sum(map(len, expected.values()))


def test_metrics_are_those_of_the_scores(evaluation: Evaluation) -> None:
    scores = evaluation.scores.set_index(["detector", "group", "image_set"]).sort_index()["ood_score"]
    for row in evaluation.metrics.itertuples():
        id_scores, ood_scores = scores[row.detector, "id", "test"], scores[row.detector, row.group, row.ood_set]
        expected = ood_metrics(id_scores.to_numpy(), ood_scores.to_numpy())
        assert [getattr(row, m) for m in METRICS] == [getattr(expected, m) for m in METRICS]


def test_a_detector_is_fitted_again_for_another_checkpoint(digits: TrainedDigits, evaluation: Evaluation) -> None:
    detectors = build_detectors(["knn", "vim"])
    other = dataclasses.replace(digits.train, features=digits.train.features.flip(1))
    evaluate_checkpoint(other, digits.id_test, ood_sets(digits), digits.last_layer, detectors)
    again = evaluate_checkpoint(digits.train, digits.id_test, ood_sets(digits), digits.last_layer, detectors)
    expected = evaluation.metrics[evaluation.metrics["detector"].isin(["knn", "vim"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.metrics, expected)


def test_evaluation_names_what_is_missing_or_broken(digits: TrainedDigits) -> None:
    common = (digits.train, digits.id_test)
    with pytest.raises(EvaluationError, match="must have an OOD set and a detector, got 0 and 1; give"):
        evaluate_checkpoint(*common, {}, digits.last_layer, [MSP()])
    with pytest.raises(EvaluationError, match="must have an OOD set and a detector, got 2 and 0; give"):
        evaluate_checkpoint(*common, ood_sets(digits), digits.last_layer, [])
    with pytest.raises(EvaluationError, match="in group near or far, got 'middle' for 'digits'; say"):
        evaluate_checkpoint(*common, {("middle", "digits"): digits.near}, digits.last_layer, [MSP()])  # type: ignore[dict-item]
    logits = digits.near.logits.clone()
    logits[[3, 8]] = torch.nan
    broken = dataclasses.replace(digits.near, logits=logits)
    with pytest.raises(
        EvaluationError, match=r"ood_score of msp .* got nan for image_id 5003 of near/digits \(2 of \d+ images\); look"
    ):
        evaluate_checkpoint(*common, {("near", "digits"): broken}, digits.last_layer, [MSP()])


def runs(values: dict[tuple[str, int, str, str], float]) -> pd.DataFrame:
    """A table of one detector from (arm, seed, group, set) to the AUROC; the other metrics follow from it."""
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "detector": "knn", "group": group, "ood_set": ood_set}
            | {"auroc": auroc, "fpr_at_95_tpr": 1 - auroc, "aupr_out": auroc / 2, "aupr_in": auroc**2}
            for (arm, seed, group, ood_set), auroc in values.items()
        ]
    )


def test_mean_over_sets_then_mean_and_std_over_seeds() -> None:
    table = runs(
        {
            ("sio", 7, "near", "a"): 0.6,
            ("sio", 7, "near", "b"): 0.8,  # seed 7 near: 0.7
            ("sio", 8, "near", "a"): 0.8,
            ("sio", 8, "near", "b"): 1.0,  # seed 8 near: 0.9
            ("sio", 7, "far", "c"): 0.9,
            ("sio", 8, "far", "c"): 0.5,
            ("baseline", 7, "near", "a"): 0.1,
            ("baseline", 7, "near", "b"): 0.3,
            ("baseline", 7, "far", "c"): 0.4,
        }
    )
    summary = summarise(table)
    suffixes = [f"{metric}_{part}" for metric in METRICS for part in ("mean", "std")]
    assert list(summary.columns) == ["arm", "detector", "group", "num_seeds", *suffixes]
    by_key = summary.set_index(["arm", "group"])
    assert list(by_key.index) == [("sio", "near"), ("sio", "far"), ("baseline", "near"), ("baseline", "far")]
    assert by_key["num_seeds"].tolist() == [2, 2, 1, 1]
    assert by_key["auroc_mean"].tolist() == pytest.approx([0.8, 0.7, 0.2, 0.4])
    assert by_key["auroc_std"].tolist() == pytest.approx([0.1, 0.2, 0.0, 0.0])
    assert by_key["fpr_at_95_tpr_mean"].tolist() == pytest.approx([0.2, 0.3, 0.8, 0.6])
    # A mean of squares, not the square of a mean: each metric is averaged itself.
    assert by_key.loc[("baseline", "near"), "aupr_in_mean"] == pytest.approx((0.01 + 0.09) / 2)


def test_order_of_rows_changes_only_the_order_of_the_summary(rng: np.random.Generator) -> None:
    table = runs(
        {("sio", s, g, o): rng.random() for s in range(3) for g, o in (("near", "a"), ("near", "b"), ("far", "c"))}
    )
    shuffled = summarise(table.sample(frac=1, random_state=0)).sort_values("group", ignore_index=True)
    pd.testing.assert_frame_equal(shuffled, summarise(table).sort_values("group", ignore_index=True))


def test_summary_of_real_metrics(evaluation: Evaluation) -> None:
    summary = summarise(evaluation.metrics.assign(arm="baseline", seed=0))
    assert summary["num_seeds"].eq(1).all()
    np.testing.assert_allclose(summary["auroc_mean"], evaluation.metrics["auroc"])
    assert summary["auroc_std"].eq(0).all()


def test_summary_refuses_what_a_mean_would_hide() -> None:
    whole = {("sio", s, g, o): 0.5 for s in (0, 1) for g, o in (("near", "a"), ("near", "b"), ("far", "c"))}
    with pytest.raises(EvaluationError, match=r"got none of near/b for knn of arm 'sio', seed 1; evaluate all runs"):
        summarise(runs({key: auroc for key, auroc in whole.items() if key != ("sio", 1, "near", "b")}))
    with pytest.raises(EvaluationError, match=r"got none of far/c for knn of arm 'sio', seed 0; evaluate all runs"):
        summarise(runs({key: auroc for key, auroc in whole.items() if key != ("sio", 0, "far", "c")}))
    with pytest.raises(EvaluationError, match=r"without missing values, .* arm 'sio', seed 1, knn, near/a; evaluate"):
        summarise(runs(whole | {("sio", 1, "near", "a"): np.nan}))
    with pytest.raises(EvaluationError, match=r"without repeats, .* arm 'sio', seed 0, knn, near/a; evaluate"):
        summarise(pd.concat([runs(whole), runs({("sio", 0, "near", "a"): 0.7})]))
    with pytest.raises(EvaluationError, match=r"must have all columns, got none named arm, auroc; add arm and seed"):
        summarise(runs(whole).drop(columns=["arm", "auroc"]))
    with pytest.raises(EvaluationError, match=r"must have rows, got 0; evaluate a checkpoint first"):
        summarise(runs(whole).iloc[:0])


def test_id_accuracy(digits: TrainedDigits) -> None:
    predicted = digits.id_test.logits.argmax(dim=1).numpy()
    expected = float(np.mean(predicted == digits.id_test.labels.numpy()))
    assert id_accuracy(digits.id_test) == pytest.approx(expected)
    assert expected > 0.9


def test_id_accuracy_refuses_ood_labels(digits: TrainedDigits) -> None:
    with pytest.raises(
        EvaluationError, match=r"must be of an ID set, got label -1 for image_id 5000; give the ID test"
    ):
        id_accuracy(digits.near)
