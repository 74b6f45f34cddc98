"""Laws that every detector obeys which reads features, logits and the last layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from trained_digits import TrainedDigits

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors import DETECTORS, Detector, Sizes
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

Array = npt.NDArray[np.float64]


def fitted(name: str, digits: TrainedDigits, **options: Any) -> Detector:
    return DETECTORS[name](**options).fit(digits.train, digits.val, digits.last_layer)


def rows(outputs: NetworkOutputs, index: Tensor) -> NetworkOutputs:
    """Some images of a set."""
    return NetworkOutputs(*(getattr(outputs, field)[index] for field in ("features", "logits", "labels", "image_ids")))


def everything(digits: TrainedDigits) -> NetworkOutputs:
    """ID test, near-OOD and far-OOD in one set."""
    fields = ("features", "logits", "labels", "image_ids")
    sets = (digits.id_test, digits.near, digits.far)
    return NetworkOutputs(*(torch.cat([getattr(s, field) for s in sets]) for field in fields))


def made_up(features: Tensor, layer: LastLayer) -> NetworkOutputs:
    """Outputs of a last layer on given features, of labels in turn."""
    ids = torch.arange(len(features))
    return NetworkOutputs(features, features @ layer.weight.T + layer.bias, ids % len(layer.bias), ids)


def auroc(detector: Detector, digits: TrainedDigits, ood: str = "near") -> float:
    id_scores, ood_scores = detector.score(digits.id_test), detector.score(getattr(digits, ood))
    return float((ood_scores[:, None] > id_scores).double().mean())


def check_a_score_is_that_of_its_image_alone(name: str, digits: TrainedDigits) -> None:
    detector, outputs = fitted(name, digits), everything(digits)
    index = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(3))[:37]
    whole = detector.score(outputs)
    assert whole.dtype == torch.float64
    assert whole.shape == (len(outputs),)
    assert whole.isfinite().all()
    torch.testing.assert_close(detector.score(rows(outputs, index)), whole[index], rtol=1e-9, atol=1e-9)
    one_by_one = torch.cat([detector.score(rows(outputs, i[None])) for i in index[:5]])
    torch.testing.assert_close(one_by_one, whole[index[:5]], rtol=1e-9, atol=1e-9)


def check_order_of_the_training_set_does_not_matter(name: str, digits: TrainedDigits, *, rtol: float = 1e-9) -> None:
    generator = torch.Generator().manual_seed(3)
    train, val = (rows(s, torch.randperm(len(s), generator=generator)) for s in (digits.train, digits.val))
    shuffled = DETECTORS[name]().fit(train, val, digits.last_layer).score(digits.near)
    torch.testing.assert_close(shuffled, fitted(name, digits).score(digits.near), rtol=rtol, atol=rtol)


def check_a_sweep_equals_detectors_built_afresh(name: str, digits: TrainedDigits, settings: list[Any]) -> None:
    swept = fitted(name, digits)
    before = swept.score(digits.near)
    for setting, scores in zip(settings, swept.score_sweep(digits.near, settings), strict=True):
        assert scores.equal(fitted(name, digits, **setting).score(digits.near)), setting
        assert scores.equal(swept.with_setting(setting).score(digits.near)), setting
    assert swept.score(digits.near).equal(before)


def check_needs_is_all_that_it_reads(name: str, digits: TrainedDigits) -> None:
    """Sets whose other fields are NaN get the same scores, and so they do without a last layer."""
    needs = DETECTORS[name].needs
    assert needs <= {"features", "logits", "last_layer"}

    def only_needed(outputs: NetworkOutputs) -> NetworkOutputs:
        unread = {"features", "logits"} - needs
        return dataclasses.replace(outputs, **{f: torch.full_like(getattr(outputs, f), torch.nan) for f in unread})

    last_layer = digits.last_layer if "last_layer" in needs else None
    detector = DETECTORS[name]().fit(only_needed(digits.train), only_needed(digits.val), last_layer)
    assert detector.score(only_needed(digits.near)).equal(fitted(name, digits).score(digits.near))


def check_nothing_is_written_to(name: str, digits: TrainedDigits) -> None:
    tensors = [getattr(s, f) for s in (digits.train, digits.val, digits.near) for f in ("features", "logits", "labels")]
    tensors += [digits.last_layer.weight, digits.last_layer.bias]
    before = [tensor.clone() for tensor in tensors]
    detector = fitted(name, digits)
    sizes = Sizes.of(digits.train)
    suitable = [each for each in detector.settings() if detector.with_setting(each).refusal(sizes) is None]
    detector.score_sweep(digits.near, suitable)
    assert all(tensor.equal(copy) for tensor, copy in zip(tensors, before, strict=True))


def check_scoring_before_fitting_is_refused(name: str, digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=f"^detector {name} must be fitted before it scores; call fit"):
        DETECTORS[name]().score(digits.near)


def check_it_says_what_it_is(name: str) -> None:
    detector = DETECTORS[name]
    assert detector.name == name
    assert detector.title
    assert detector.cost
    assert "arXiv:" in detector.paper or "pp. " in detector.paper
    assert set(detector.sweep) <= set(detector.Options.model_fields)
    assert len(detector().settings()) == np.prod([len(values) for values in detector.sweep.values()])
