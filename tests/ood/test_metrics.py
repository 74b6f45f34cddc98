"""Metrics against hand computation, brute force over thresholds and pairs, and scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from sio_ray.errors import EvaluationError
from sio_ray.ood.metrics import OODMetrics, auroc, ood_metrics

Scores = npt.NDArray[np.float64]


def brute_force(id_scores: Scores, ood_scores: Scores) -> OODMetrics:
    """All pairs for AUROC, all thresholds for the rest; O(N M)."""
    pairs = np.sign(ood_scores[:, None] - id_scores[None, :])
    thresholds = np.unique(np.concatenate([id_scores, ood_scores]))
    allowed = [t for t in thresholds if np.sum(ood_scores >= t) / len(ood_scores) >= 0.95]
    return OODMetrics(
        auroc=float(((pairs + 1) / 2).mean()),
        fpr_at_95_tpr=min(float(np.mean(id_scores >= t)) for t in allowed),
        aupr_out=_pr_area(positive=ood_scores, negative=id_scores),
        aupr_in=_pr_area(positive=-id_scores, negative=-ood_scores),
        fpr_at_95_id_tpr=min(
            float(np.mean(ood_scores <= t)) for t in thresholds if np.sum(id_scores <= t) / len(id_scores) >= 0.95
        ),
    )


def _pr_area(positive: Scores, negative: Scores) -> float:
    # From the strictest threshold to the loosest; the curve starts at recall 0 with precision 1.
    recall, precision = [0.0], [1.0]
    for threshold in np.unique(np.concatenate([positive, negative]))[::-1]:
        hits, false_alarms = np.sum(positive >= threshold), np.sum(negative >= threshold)
        recall.append(hits / len(positive))
        precision.append(hits / (hits + false_alarms))
    return float(np.sum(np.diff(recall) * (np.array(precision[1:]) + np.array(precision[:-1])) / 2))


def assert_close(actual: OODMetrics, expected: OODMetrics) -> None:
    for name in (field.name for field in dataclasses.fields(OODMetrics)):
        assert getattr(actual, name) == pytest.approx(getattr(expected, name), abs=1e-12), name


@pytest.mark.parametrize("num_values", [2, 3, 7, 40, None])
@pytest.mark.parametrize(("num_id", "num_ood"), [(1, 1), (1, 30), (30, 1), (19, 20), (50, 40), (61, 99), (200, 100)])
def test_equals_brute_force_with_and_without_ties(
    num_values: int | None, num_id: int, num_ood: int, rng: np.random.Generator
) -> None:
    id_scores, ood_scores = rng.normal(size=num_id), rng.normal(0.7, 1.0, size=num_ood)
    if num_values is not None:
        id_scores, ood_scores = (np.round(s * num_values / 6) for s in (id_scores, ood_scores))
    assert_close(ood_metrics(id_scores, ood_scores), brute_force(id_scores, ood_scores))


def test_hand_computed_case() -> None:
    # Pairs won by OOD: 1 beats 0; 3 beats 0, 2; 4 beats 0, 2 -> 5, and 4 ties 4 -> 5.5 of 9.
    metrics = ood_metrics([0, 2, 4], [1, 3, 4])
    assert metrics.auroc == pytest.approx(5.5 / 9)
    # All three OOD images are needed for 95%, so the threshold is 1, and 2 and 4 are false alarms.
    assert metrics.fpr_at_95_tpr == pytest.approx(2 / 3)
    # Recall 0, 1/3, 2/3, 2/3, 1 with precision 1, 1/2, 2/3, 1/2, 3/5.
    assert metrics.aupr_out == pytest.approx((1.5 / 2 + (1 / 2 + 2 / 3) / 2 + (1 / 2 + 3 / 5) / 2) / 3)
    # Negated, ID positive: recall 0, 1/3, 1/3, 2/3, 2/3, 1 with precision 1, 1, 1/2, 2/3, 1/2, 1/2 (tie of two).
    assert metrics.aupr_in == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (1 / 2 + 1 / 2) / 2) / 3)


def test_perfect_and_reversed_separation() -> None:
    assert ood_metrics([0.0, 1.0], [2.0, 3.0]) == OODMetrics(1.0, 0.0, 1.0, 1.0, 0.0)
    worst = ood_metrics([2.0, 3.0], [0.0, 1.0])
    assert (worst.auroc, worst.fpr_at_95_tpr, worst.fpr_at_95_id_tpr) == (0.0, 1.0, 1.0)


def test_constant_scores_are_chance() -> None:
    metrics = ood_metrics(np.zeros(30), np.zeros(10))
    assert (metrics.auroc, metrics.fpr_at_95_tpr, metrics.fpr_at_95_id_tpr) == (0.5, 1.0, 1.0)
    # The trapezoid from (recall 0, precision 1) to (1, share of positives); average precision would be the share.
    assert (metrics.aupr_out, metrics.aupr_in) == ((1 + 0.25) / 2, (1 + 0.75) / 2)


def test_auroc_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    id_scores, ood_scores = rng.normal(size=500), np.round(rng.normal(1, 1, size=300), 1)
    is_ood = np.r_[np.zeros(500), np.ones(300)]
    assert ood_metrics(id_scores, ood_scores).auroc == roc_auc_score(is_ood, np.r_[id_scores, ood_scores])


def test_fpr_is_that_of_the_full_roc_curve(rng: np.random.Generator) -> None:
    for size in (20, 33, 100):
        id_scores, ood_scores = rng.integers(0, 6, size=size), rng.integers(1, 8, size=size + 7)
        is_ood = np.r_[np.zeros(size), np.ones(size + 7)]
        fpr, tpr, _ = roc_curve(is_ood, np.r_[id_scores, ood_scores], drop_intermediate=False)
        assert ood_metrics(id_scores, ood_scores).fpr_at_95_tpr == pytest.approx(fpr[tpr >= 0.95].min(), abs=1e-15)


def test_95_percent_of_20_is_19_exactly() -> None:
    # The lowest OOD score may be missed, so the ID score between the two lowest is no false alarm.
    assert ood_metrics([0.5], [0.0, *range(1, 20)]).fpr_at_95_tpr == 0.0
    assert ood_metrics([0.5], [0.0, *range(1, 19)]).fpr_at_95_tpr == 1.0


def test_monotone_maps_and_order_do_not_matter(rng: np.random.Generator) -> None:
    id_scores, ood_scores = rng.normal(size=80), rng.normal(0.5, 1, size=60)
    expected = ood_metrics(id_scores, ood_scores)
    assert_close(ood_metrics(np.exp(id_scores), np.exp(ood_scores)), expected)
    assert_close(ood_metrics(rng.permutation(id_scores), rng.permutation(ood_scores)), expected)


def test_swapping_sides_and_sign_keeps_auroc_and_swaps_aupr(rng: np.random.Generator) -> None:
    id_scores, ood_scores = np.round(rng.normal(size=80), 1), np.round(rng.normal(0.5, 1, size=60), 1)
    there, back = ood_metrics(id_scores, ood_scores), ood_metrics(-ood_scores, -id_scores)
    assert back.auroc == pytest.approx(there.auroc)
    assert (back.aupr_in, back.aupr_out) == pytest.approx((there.aupr_out, there.aupr_in))
    assert (back.fpr_at_95_tpr, back.fpr_at_95_id_tpr) == (there.fpr_at_95_id_tpr, there.fpr_at_95_tpr)


def test_the_two_fpr_at_95_are_different_numbers() -> None:
    # One of 20 ID scores is high: it may be missed where ID is positive, and is a false alarm where OOD is.
    metrics = ood_metrics([*range(19), 100.0], [50.0, 60.0])
    assert (metrics.fpr_at_95_tpr, metrics.fpr_at_95_id_tpr) == (0.05, 0.0)


def test_auroc_alone_is_that_of_the_metrics(rng: np.random.Generator) -> None:
    id_scores, ood_scores = np.round(rng.normal(size=80), 1), np.round(rng.normal(0.5, 1, size=60), 1)
    assert auroc(id_scores, ood_scores) == ood_metrics(id_scores, ood_scores).auroc
    with pytest.raises(EvaluationError, match=r"ood_scores must not be empty"):
        auroc(id_scores, [])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_named_by_position(bad: float) -> None:
    with pytest.raises(
        EvaluationError, match=rf"ood_scores must be finite, got {bad} at position 2 \(1 of 4 in all\); look"
    ):
        ood_metrics([0.0, 1.0], [1.0, 2.0, bad, 3.0])
    with pytest.raises(EvaluationError, match=rf"id_scores must be finite, got {bad} at position 0 "):
        ood_metrics([bad, 1.0], [1.0])


def test_empty_and_two_dimensional_scores_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"ood_metrics\.id_scores must not be empty; give "):
        ood_metrics([], [1.0])
    with pytest.raises(EvaluationError, match=r"ood_metrics\.ood_scores must not be empty; give "):
        ood_metrics([1.0], [])
    with pytest.raises(EvaluationError, match=r"id_scores must be one-dimensional, got shape \(3, 1\); give one"):
        ood_metrics(np.zeros((3, 1)), [1.0])
