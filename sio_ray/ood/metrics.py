"""The metrics of one ID set against one OOD set, exact under ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score

from sio_ray.errors import EvaluationError

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OODMetrics:
    """How well one score separates one ID set from one OOD set; each metric is a fraction in [0, 1].

    Attributes:
        auroc: area under the ROC curve; ties count half. 0.5 is chance.
        fpr_at_95_tpr: share of ID images flagged as OOD at the threshold that catches 95% of the OOD images.
        aupr_out: area under the precision-recall curve with OOD as the positive class.
        aupr_in: area under the precision-recall curve with ID as the positive class.
        fpr_at_95_id_tpr: share of OOD images taken for ID at the threshold that passes 95% of the ID images; FPR@95
            with ID as the positive class, as in the SIO authors' code, and another number than `fpr_at_95_tpr`.
    """

    auroc: float
    fpr_at_95_tpr: float
    aupr_out: float
    aupr_in: float
    fpr_at_95_id_tpr: float


def ood_metrics(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> OODMetrics:
    """Compare all scores of an ID set with all scores of an OOD set; OOD is the positive class.

    Args:
        id_scores: (N,) ood_score of every ID image, larger means more OOD; any finite range.
        ood_scores: (M,) ood_score of every OOD image.

    Returns:
        The metrics. None of them changes under a strictly increasing map of all scores.

    Raises:
        EvaluationError: no scores on a side, scores that are not one-dimensional, or a score that is not finite.

    Source: OpenOOD v1.5 (arXiv:2306.09301). AUPR is the trapezoid of the precision-recall curve there, which is not
    average precision.
    """
    id_checked = _checked("id_scores", id_scores)
    ood_checked = _checked("ood_scores", ood_scores)
    scores = np.concatenate([id_checked, ood_checked])
    is_ood = np.concatenate([np.zeros(len(id_checked), dtype=np.int64), np.ones(len(ood_checked), dtype=np.int64)])
    return OODMetrics(
        auroc=float(roc_auc_score(is_ood, scores)),
        fpr_at_95_tpr=_fpr_at_95_tpr(id_checked, ood_checked),
        aupr_out=_aupr(is_ood, scores),
        aupr_in=_aupr(1 - is_ood, -scores),
        fpr_at_95_id_tpr=_fpr_at_95_tpr(-ood_checked, -id_checked),
    )


def auroc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """The AUROC of `ood_metrics` alone; what a sweep compares.

    Raises:
        EvaluationError: as `ood_metrics`.
    """
    id_checked, ood_checked = _checked("id_scores", id_scores), _checked("ood_scores", ood_scores)
    is_ood = np.repeat([0, 1], [len(id_checked), len(ood_checked)])
    return float(roc_auc_score(is_ood, np.concatenate([id_checked, ood_checked])))


def _fpr_at_95_tpr(id_scores: Float64Array, ood_scores: Float64Array) -> float:
    """The smallest FPR over all thresholds whose TPR is at least 0.95; a score at the threshold counts as positive.

    FPR and TPR fall together as the threshold rises, so the highest threshold that is allowed has the smallest FPR. It
    is an OOD score: the one with ceil(0.95 M) OOD scores at or above it. OpenOOD reads `roc_curve`, which drops
    collinear points and can miss that threshold under ties.
    """
    num_ood = len(ood_scores)
    # Integers, as 0.95 * 20 rounded up is 19 or 20 by the luck of floating point.
    num_caught = -(-19 * num_ood // 20)
    threshold = np.partition(ood_scores, num_ood - num_caught)[num_ood - num_caught]
    return float(np.count_nonzero(id_scores >= threshold) / len(id_scores))


def _aupr(is_positive: npt.NDArray[np.int64], scores: Float64Array) -> float:
    precision, recall, _ = precision_recall_curve(is_positive, scores)
    return float(auc(recall, precision))


def _checked(name: str, scores: npt.ArrayLike) -> Float64Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise EvaluationError(
            f"ood_metrics.{name} must be one-dimensional, got shape {values.shape}; give one ood_score per image."
        )
    if len(values) == 0:
        raise EvaluationError(f"ood_metrics.{name} must not be empty; give the ood_score of at least one image.")
    unusable = np.flatnonzero(~np.isfinite(values))
    if len(unusable):
        position = int(unusable[0])
        raise EvaluationError(
            f"ood_metrics.{name} must be finite, got {values[position]} at position {position} "
            f"({len(unusable)} of {len(values)} in all); look for features or logits that overflow."
        )
    return values
