"""The protocol: tables of one network, what a sweep may read and chooses, and means over sets and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import Field
from sklearn.metrics import roc_auc_score
from torch import Tensor
from trained_digits import TrainedDigits

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors import Detector, Sizes
from sio_ray.ood.detectors.energy import Energy
from sio_ray.ood.detectors.knn import KNN
from sio_ray.ood.detectors.msp import MSP
from sio_ray.ood.metrics import ood_metrics
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.protocol import METRICS, EvaluationSets, evaluate_detector, id_accuracy
from sio_ray.ood.summary import summarise


def part(outputs: NetworkOutputs, rows: slice) -> NetworkOutputs:
    fields = (outputs.features, outputs.logits, outputs.labels, outputs.image_ids)
    return NetworkOutputs(*(tensor[rows] for tensor in fields))


@pytest.fixture(scope="module")
def sets(digits: TrainedDigits) -> EvaluationSets:
    return EvaluationSets(
        train=digits.train,
        val=digits.val,
        test=digits.id_test,
        ood={("near", "digits"): part(digits.near, slice(200, None)), ("far", "noise"): digits.far},
        val_ood={("near", "digits"): part(digits.near, slice(0, 200))},
        last_layer=digits.last_layer,
    )


class NthLogit(Detector):
    """A detector whose sweep is known: setting n scores by the n-th column of the logits."""

    name = "nth_logit"
    title = "N-th logit"
    paper = "none"
    cost = "none"
    needs = frozenset({"logits"})

    class Options(Section):
        n: int = Field(4, ge=0)

    options: Options
    sweep: ClassVar[dict[str, Sequence[Any]]] = {"n": (7, 0, 3, 1, 2)}

    def refusal(self, sizes: Sizes) -> str | None:
        num = sizes.num_classes
        return (
            None if self.options.n < num else f"n must be less than the number of classes, {num}, got {self.options.n}"
        )

    def score(self, outputs: NetworkOutputs) -> Tensor:
        return outputs.logits[:, self.options.n].double()


def test_one_row_per_set_and_one_score_per_image(sets: EvaluationSets) -> None:
    evaluation = evaluate_detector(Energy(), sets)
    assert list(evaluation.metrics.columns) == ["group", "ood_set", *METRICS]
    assert list(zip(evaluation.metrics["group"], evaluation.metrics["ood_set"], strict=True)) == list(sets.ood)
    assert evaluation.metrics[list(METRICS)].stack().between(0, 1).all()
    assert list(evaluation.scores.columns) == ["group", "image_set", "image_id", "ood_score"]
    expected = {("id", "test"): sets.test, **sets.ood}
    for key, of_set in evaluation.scores.groupby(["group", "image_set"]):
        assert of_set["image_id"].tolist() == expected[key].image_ids.tolist()
    assert len(evaluation.scores) == sum(map(len, expected.values()))
    assert set(evaluation.seconds) == {"fit_s", "sweep_s", "score_s", "metrics_s"}


def test_metrics_are_those_of_the_scores(sets: EvaluationSets) -> None:
    evaluation = evaluate_detector(KNN(), sets)
    scores = evaluation.scores.set_index(["group", "image_set"]).sort_index()["ood_score"]
    for row in evaluation.metrics.itertuples():
        expected = ood_metrics(scores["id", "test"].to_numpy(), scores[row.group, row.ood_set].to_numpy())
        assert [getattr(row, m) for m in METRICS] == [getattr(expected, m) for m in METRICS]


def test_a_sweep_takes_the_first_best_setting_on_validation_sets(sets: EvaluationSets) -> None:
    evaluation = evaluate_detector(NthLogit(), sets)
    is_ood = np.repeat([0, 1], [len(sets.val), 200])
    logits = torch.cat([sets.val.logits, sets.val_ood["near", "digits"].logits]).double().numpy()
    # 7 is no class, and is left out.
    expected = [({"n": n}, roc_auc_score(is_ood, logits[:, n])) for n in (0, 3, 1, 2)]
    assert [row["setting"] for row in evaluation.sweep] == [setting for setting, _ in expected]
    assert [row["val_auroc"] for row in evaluation.sweep] == pytest.approx([value for _, value in expected])
    assert evaluation.setting == max(expected, key=lambda pair: pair[1])[0]
    own = evaluation.scores[evaluation.scores["group"] == "id"]["ood_score"].to_numpy()
    np.testing.assert_array_equal(own, sets.test.logits[:, evaluation.setting["n"]].double())


def test_the_first_of_equal_settings_wins(sets: EvaluationSets) -> None:
    def same(outputs: NetworkOutputs) -> NetworkOutputs:
        return dataclasses.replace(outputs, logits=outputs.logits[:, :1].repeat(1, 6))

    val_ood = {key: same(outputs) for key, outputs in sets.val_ood.items()}
    equal = dataclasses.replace(sets, val=same(sets.val), val_ood=val_ood)
    assert evaluate_detector(NthLogit(), equal).setting == {"n": 0}


def test_validation_auroc_is_the_unweighted_mean_over_sets(sets: EvaluationSets) -> None:
    two = dataclasses.replace(
        sets, val_ood={**sets.val_ood, ("far", "noise"): part(sets.ood["far", "noise"], slice(0, 9))}
    )
    singles = [
        evaluate_detector(NthLogit(), dataclasses.replace(sets, val_ood={key: of_set})).sweep
        for key, of_set in two.val_ood.items()
    ]
    for row, *alone in zip(evaluate_detector(NthLogit(), two).sweep, *singles, strict=True):
        assert row["val_auroc"] == pytest.approx(np.mean([one["val_auroc"] for one in alone]))


def test_test_sets_have_no_say_in_the_choice(sets: EvaluationSets) -> None:
    other = dataclasses.replace(
        sets, test=part(sets.test, slice(0, 9)), ood={("far", "noise"): part(sets.ood["far", "noise"], slice(0, 5))}
    )
    whole, small = evaluate_detector(NthLogit(), sets), evaluate_detector(NthLogit(), other)
    assert (whole.sweep, whole.setting) == (small.sweep, small.setting)


def test_options_that_were_given_and_sweeps_that_are_off_are_used_as_they_are(sets: EvaluationSets) -> None:
    for detector, sweep, n in ((NthLogit(n=2), True, 2), (NthLogit(), False, 4)):
        evaluation = evaluate_detector(detector, sets, sweep=sweep)
        assert (evaluation.setting, evaluation.sweep) == ({}, [])
        own = evaluation.scores[evaluation.scores["group"] == "id"]["ood_score"].to_numpy()
        np.testing.assert_array_equal(own, sets.test.logits[:, n].double())


def test_the_full_spectrum_has_shifted_images_among_id(sets: EvaluationSets) -> None:
    assert evaluate_detector(MSP(), sets).full_spectrum.empty
    shifted = part(sets.ood["near", "digits"], slice(0, 40))
    evaluation = evaluate_detector(MSP(), dataclasses.replace(sets, shifted={"blurred": shifted}))
    pd.testing.assert_frame_equal(evaluation.metrics, evaluate_detector(MSP(), sets).metrics)
    of = evaluation.scores.groupby(["group", "image_set"])["ood_score"].apply(np.array)
    every_id = np.concatenate([of["id", "test"], of["id_shifted", "blurred"]])
    for row in evaluation.full_spectrum.itertuples():
        assert row.auroc == ood_metrics(every_id, of[row.group, row.ood_set]).auroc
    assert (evaluation.full_spectrum["auroc"] < evaluation.metrics["auroc"]).any()


def test_a_detector_is_fitted_again_for_another_network(sets: EvaluationSets) -> None:
    detector = KNN(k=5)
    other = dataclasses.replace(sets.train, features=sets.train.features.flip(1))
    evaluate_detector(detector, dataclasses.replace(sets, train=other))
    again = evaluate_detector(detector, sets).metrics
    pd.testing.assert_frame_equal(again, evaluate_detector(KNN(k=5), sets).metrics)


def test_evaluation_names_what_is_missing_or_broken(sets: EvaluationSets) -> None:
    with pytest.raises(EvaluationError, match=r"EvaluationSets\.ood must hold an OOD set, got none; give at least one"):
        dataclasses.replace(sets, ood={})
    with pytest.raises(EvaluationError, match="in group near or far, got 'middle' for 'digits'; say"):
        dataclasses.replace(sets, ood={("middle", "digits"): sets.test})  # type: ignore[dict-item]
    with pytest.raises(EvaluationError) as error:
        evaluate_detector(NthLogit(n=7), sets)
    assert str(error.value) == (
        "nth_logit: n must be less than the number of classes, 6, got 7; "
        "set evaluate.detector_options.nth_logit to what fits, or leave nth_logit out."
    )
    with pytest.raises(EvaluationError) as error:
        evaluate_detector(NthLogit(), dataclasses.replace(sets, val_ood={}))
    assert str(error.value) == (
        "nth_logit has 4 settings to choose from, but there is no OOD validation set; prepare one, or set "
        "evaluate.sweep=false, or evaluate.detector_options.nth_logit."
    )
    near = sets.ood["near", "digits"]
    logits = near.logits.clone()
    logits[[3, 8]] = torch.nan
    broken = {("near", "digits"): dataclasses.replace(near, logits=logits)}
    message = r"ood_score of {} .* got nan for image_id 5203 of {} \(2 of \d+ images\); look"
    with pytest.raises(EvaluationError, match=message.format("msp", "near/digits")):
        evaluate_detector(MSP(), dataclasses.replace(sets, ood=broken))
    with pytest.raises(EvaluationError, match=message.format("nth_logit", "near/val/digits")):
        evaluate_detector(NthLogit(), dataclasses.replace(sets, val_ood=broken))


def runs(values: dict[tuple[str, int, str, str], float]) -> pd.DataFrame:
    """A table of one detector from (arm, seed, group, set) to the AUROC; the other metrics follow from it."""
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "detector": "knn", "group": group, "ood_set": ood_set}
            | {"auroc": auroc, "fpr_at_95_tpr": 1 - auroc, "aupr_out": auroc / 2, "aupr_in": auroc**2}
            | {"fpr_at_95_id_tpr": 1 - auroc / 4}
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


def test_summary_of_real_metrics(sets: EvaluationSets) -> None:
    metrics = evaluate_detector(Energy(), sets).metrics.assign(detector="energy")
    summary = summarise(metrics.assign(arm="baseline", seed=0))
    assert summary["num_seeds"].eq(1).all()
    np.testing.assert_allclose(summary["auroc_mean"], metrics["auroc"])
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
