"""Whether a real-trained classifier sees in a picture the class that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Confusion:
    """The most frequent mistake.

    Attributes:
        label: class that the pictures carry.
        predicted: class that the classifier gives them.
        share: of the pictures of that label, in (0, 1].
    """

    label: str
    predicted: str
    share: float


@dataclass(frozen=True)
class LabelAgreement:
    """How far a classifier agrees with the labels.

    Attributes:
        agreement: share of pictures to which it gives their label, in [0, 1].
        confidence: mean probability that it gives the label, in [0, 1].
        confusion: the label and wrong class that occur together most often; None where all agree.
    """

    agreement: float
    confidence: float
    confusion: Confusion | None


def label_agreement(
    predicted: Tensor, confidence: Tensor, labels: Tensor, class_names: Sequence[str]
) -> LabelAgreement:
    """Compare what a classifier says with the labels.

    Args:
        predicted: (N,) int64 in [0, C), N at least 1; the class of the largest logit.
        confidence: (N,) floating point, softmax probability of the label.
        labels: (N,) int64 in [0, C).
        class_names: name of class c at position c.
    """
    num_classes = len(class_names)
    # As one number each, so that memory is that of the pairs that occur and not C x C.
    pairs, counts = (labels * num_classes + predicted)[labels != predicted].unique(return_counts=True)
    confusion = None
    if len(pairs):
        worst = int(counts.argmax())
        label, wrong = divmod(int(pairs[worst]), num_classes)
        share = int(counts[worst]) / int((labels == label).sum())
        confusion = Confusion(class_names[label], class_names[wrong], share)
    agreement = (predicted == labels).to(torch.float64).mean().item()
    return LabelAgreement(agreement, confidence.to(torch.float64).mean().item(), confusion)
