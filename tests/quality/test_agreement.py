"""Label agreement against counting by hand."""

from __future__ import annotations

import pytest
import torch

from sio_ray.quality.agreement import Confusion, label_agreement

NAMES = ("cat", "dog", "owl")


def test_agreement_is_a_share_and_the_confusion_the_most_frequent_pair():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    predicted = torch.tensor([0, 0, 1, 2, 1, 0, 1, 1, 2, 0])
    confidence = torch.linspace(0.1, 1.0, 10)
    found = label_agreement(predicted, confidence, labels, NAMES)
    assert found.agreement == 0.4
    assert found.confidence == pytest.approx(0.55)
    assert found.confusion == Confusion("owl", "dog", 0.5)


def test_where_all_agree_there_is_no_confusion():
    labels = torch.tensor([2, 1, 0])
    found = label_agreement(labels, torch.ones(3), labels, NAMES)
    assert (found.agreement, found.confidence, found.confusion) == (1.0, 1.0, None)


def test_the_confusion_is_that_of_a_full_confusion_matrix():
    generator = torch.Generator().manual_seed(0)
    labels, predicted = (torch.randint(0, 3, (500,), generator=generator) for _ in range(2))
    matrix = torch.zeros(3, 3, dtype=torch.int64).index_put_((labels, predicted), torch.tensor(1), accumulate=True)
    wrong = matrix - torch.diag(matrix.diag())
    row, column = divmod(int(wrong.argmax()), 3)
    found = label_agreement(predicted, torch.ones(500), labels, NAMES)
    assert found.agreement == matrix.diag().sum() / 500
    assert found.confusion == Confusion(NAMES[row], NAMES[column], int(wrong.max()) / int(matrix[row].sum()))
