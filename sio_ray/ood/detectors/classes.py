"""What detectors ask of the labels of a training set whose classes they describe one by one."""

from __future__ import annotations

from sio_ray.errors import EvaluationError
from sio_ray.ood.outputs import NetworkOutputs


def check_classes(train: NetworkOutputs, *, detector: str) -> None:
    """See that every training image has a class, and every class a training image.

    Raises:
        EvaluationError: it is not so.
    """
    num_classes = train.logits.shape[1]
    strange = train.labels[(train.labels < 0) | (train.labels >= num_classes)]
    if len(strange):
        raise EvaluationError(
            f"detector {detector} must have training labels in [0, {num_classes}), got {int(strange[0])}; "
            "give the real ID training set."
        )
    counts = train.labels.bincount(minlength=num_classes)
    if not counts.all():
        raise EvaluationError(
            f"detector {detector} must have a training image of every class, got none of class "
            f"{int(counts.argmin())}; give the whole training set, or leave {detector} out of evaluate.detectors."
        )
