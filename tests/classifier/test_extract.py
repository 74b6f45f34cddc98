"""Extraction: what the network says, for any batch size, and ODIN's step as OpenOOD defines it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import EvaluationError
from sio_ray.imageset import ImageArrays
from sio_ray.ood.extract import extract, last_layer_of

ALL = frozenset({"features", "logits", "perturbed_logits"})


@pytest.fixture(scope="module")
def arrays() -> ImageArrays:
    images = np.random.default_rng(0).integers(0, 256, (23, 3, 8, 8), dtype=np.uint8)
    return ImageArrays(images, np.arange(23) % 4, np.arange(100, 123))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    architecture = Architecture(
        network="small_cnn",
        width=4,
        class_names=("a", "b", "c", "d"),
        image_shape=(3, 8, 8),
        mean=(0.4, 0.5, 0.6),
        std=(0.1, 0.25, 0.4),
    )
    classifier = Classifier(architecture)
    for _ in range(3):
        classifier(torch.rand(16, 3, 8, 8))
    return classifier.eval()


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_features_and_logits_are_those_of_direct_calls_for_any_batch_size(classifier, arrays, batch_size):
    outputs = extract(classifier, arrays, batch_size=batch_size, needs=ALL, where="set")
    whole = extract(classifier, arrays, batch_size=23, needs=ALL, where="set")
    images = torch.from_numpy(arrays.images).float() / 255
    with torch.no_grad():
        torch.testing.assert_close(outputs.features, classifier.features(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs.logits, classifier(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.perturbed_logits, whole.perturbed_logits, rtol=1e-3, atol=1e-3)
    assert outputs.labels.tolist() == arrays.labels.tolist()
    assert outputs.image_ids.tolist() == arrays.image_ids.tolist()
    assert not any(t.requires_grad for t in (outputs.features, outputs.logits, outputs.perturbed_logits))


class InFloat64(nn.Module):
    """A classifier that computes in float64, so that the sign of a small gradient is not rounding noise."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier.double()
        self.last_layer = classifier.last_layer

    def features(self, images):
        return self.classifier.features(images.double())

    def logits(self, features):
        return self.last_layer(features)


def test_perturbed_logits_are_openoods_on_the_normalised_input(classifier, arrays):
    network = InFloat64(copy.deepcopy(classifier))
    outputs = extract(network, arrays, batch_size=10, needs=ALL, where="set")
    # OpenOOD's ODIN postprocessor: the transform normalises, the network sees x, the step is divided by std.
    std = torch.tensor([0.1, 0.25, 0.4], dtype=torch.float64).view(1, 3, 1, 1)
    mean = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(1, 3, 1, 1)
    body, last_layer = network.classifier.network, network.last_layer
    x = ((torch.from_numpy(arrays.images).float() / 255).double() - mean) / std
    x.requires_grad_()
    logits = last_layer(body.features(x))
    F.cross_entropy(logits / 1000, logits.detach().argmax(1)).backward()
    gradient = (torch.ge(x.grad, 0).double() - 0.5) * 2
    with torch.no_grad():
        expected = last_layer(body.features(x - 0.0014 * gradient / std))
    torch.testing.assert_close(outputs.perturbed_logits, expected, rtol=0, atol=1e-6)
    shift = (expected - logits).abs().amax(1).min()
    assert shift > 1e-4, "the step is visible, so the tolerance above tells"


def test_perturbed_logits_are_left_out_unless_needed(classifier, arrays):
    needs = frozenset({"features", "logits"})
    assert extract(classifier, arrays, batch_size=10, needs=needs, where="set").perturbed_logits is None


def test_extraction_leaves_no_gradient_on_the_network(classifier, arrays):
    extract(classifier, arrays, batch_size=10, needs=ALL, where="set")
    assert all(parameter.grad is None for parameter in classifier.parameters())


class BrokenFor(nn.Module):
    """NaN features for pictures whose first pixel is 7, infinite logits where it is 8."""

    def __init__(self) -> None:
        super().__init__()
        self.last_layer = nn.Linear(2, 3)
        nn.init.constant_(self.last_layer.weight, 3.0)

    def features(self, images):
        first = (images[:, 0, 0, 0] * 255).round()
        value = torch.where(first == 7, float("nan"), torch.where(first == 8, 3e38, 1.0))
        return value[:, None].expand(-1, 2)

    def logits(self, features):
        return self.last_layer(features)


@pytest.mark.parametrize("pixel", [7, 8])
def test_features_or_logits_that_are_not_finite_name_the_image(arrays, pixel):
    images = arrays.images.copy()
    images[:, 0, 0, 0] = 0
    images[[17, 20], 0, 0, 0] = pixel
    broken = ImageArrays(images, arrays.labels, arrays.image_ids)
    with pytest.raises(EvaluationError) as error:
        extract(BrokenFor(), broken, batch_size=5, needs=frozenset(), where="ood/letters")
    assert str(error.value) == (
        "the network's features or logits of image_id 117 of ood/letters are not finite; train the checkpoint again."
    )


def test_the_last_layer_makes_the_logits_of_the_features(classifier, arrays):
    outputs = extract(classifier, arrays, batch_size=10, needs=frozenset(), where="set")
    layer = last_layer_of(classifier)
    torch.testing.assert_close(outputs.features @ layer.weight.T + layer.bias, outputs.logits)
    assert not layer.weight.requires_grad
