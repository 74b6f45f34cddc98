"""Extraction: what the network says, in one pass per batch, for any batch size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import EvaluationError
from sio_ray.imageset import ImageArrays
from sio_ray.ood.extract import extract, last_layer_of
from sio_ray.ood.probe import BatchPass, Probe, no_graph


@pytest.fixture(scope="module")
def arrays() -> ImageArrays:
    images = np.random.default_rng(0).integers(0, 256, (23, 3, 8, 8), dtype=np.uint8)
    arrays = ImageArrays(images, np.arange(23) % 4, np.arange(100, 123))
    for values in (arrays.images, arrays.labels, arrays.image_ids):
        values.flags.writeable = False  # as those of Arrow and Ray are
    return arrays


@pytest.fixture
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


@dataclass(frozen=True)
class Pixels(Probe):
    """The pictures times a factor, as the network sees them."""

    factor: float = 1.0
    name = "pixels"

    def read(self, batch: BatchPass) -> torch.Tensor:
        return no_graph(batch.images * self.factor)


@dataclass(frozen=True)
class Slope(Probe):
    """Norm of the gradient of the sum of logits by the pixels."""

    name = "slope"
    differentiates = True

    def read(self, batch: BatchPass) -> torch.Tensor:
        return no_graph(batch.gradient(batch.logits, torch.ones_like(batch.logits)).flatten(1).norm(dim=1))


@dataclass(frozen=True)
class StageMeans(Probe):
    """Mean of every stage."""

    name = "means"
    reads_maps = True

    def read(self, batch: BatchPass) -> torch.Tensor:
        return no_graph(torch.stack([maps.flatten(1).mean(1) for maps in batch.maps], 1))


PROBES = (Pixels(), Slope(), StageMeans())


@pytest.mark.parametrize("probes", [(), PROBES], ids=["plain", "probed"])
@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_outputs_are_those_of_direct_calls_for_any_batch_size(classifier, arrays, batch_size, probes):
    outputs = extract(classifier, arrays, batch_size=batch_size, probes=probes, where="set")
    images = torch.tensor(arrays.images).float() / 255
    with torch.no_grad():
        torch.testing.assert_close(outputs.features, classifier.features(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs.logits, classifier(images), rtol=1e-4, atol=1e-5)
    assert outputs.labels.tolist() == arrays.labels.tolist()
    assert outputs.image_ids.tolist() == arrays.image_ids.tolist()
    assert list(outputs.probes) == [probe.name for probe in probes]
    if probes:
        assert torch.equal(outputs.probes["pixels"], images)
        images.requires_grad_()
        classifier(images).sum().backward()
        torch.testing.assert_close(outputs.probes["slope"], images.grad.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-5)
        maps = classifier.feature_maps(images)
        torch.testing.assert_close(outputs.probes["means"][:, 1], maps[1].flatten(1).mean(1), rtol=1e-4, atol=1e-5)
    everything = (outputs.features, outputs.logits, *outputs.probes.values())
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in everything)


def test_features_do_not_depend_on_the_probes(classifier, arrays):
    plain = extract(classifier, arrays, batch_size=10, probes=(), where="set")
    probed = extract(classifier, arrays, batch_size=10, probes=PROBES, where="set")
    torch.testing.assert_close(plain.features, probed.features, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plain.logits, probed.logits, rtol=1e-6, atol=1e-6)


def test_every_image_passes_once(classifier, arrays):
    sizes = []
    stem = next(module for module in classifier.modules() if isinstance(module, nn.Conv2d))
    stem.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    extract(classifier, arrays, batch_size=10, probes=PROBES, where="set")
    assert sizes == [10, 10, 3]


def test_extraction_leaves_the_network_as_it_was(classifier, arrays):
    frozen = classifier.last_layer.bias.requires_grad_(False)
    wanted = {name: parameter.requires_grad for name, parameter in classifier.named_parameters()}
    tf32 = torch.backends.cudnn.conv.fp32_precision
    extract(classifier, arrays, batch_size=10, probes=PROBES, where="set")
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert {name: parameter.requires_grad for name, parameter in classifier.named_parameters()} == wanted
    assert not frozen.requires_grad
    assert torch.backends.cudnn.conv.fp32_precision == tf32


def test_parameters_have_no_part_in_the_graph(classifier, arrays):
    class Guard(Probe):
        name = "guard"
        differentiates = True

        def read(self, batch):
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert batch.images.requires_grad
            assert not any(parameter.requires_grad for parameter in classifier.parameters())
            return torch.zeros(len(batch.images))

    extract(classifier, arrays, batch_size=10, probes=(Guard(),), where="set")


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


@dataclass(frozen=True)
class NotFiniteWhere(Probe):
    """Infinity for pictures with a first pixel of this value; one number per picture."""

    pixel: int
    name = "strange"

    def read(self, batch: BatchPass) -> torch.Tensor:
        first = (batch.images[:, 0, 0, 0] * 255).round()
        return torch.where(first == self.pixel, float("inf"), first)


@pytest.mark.parametrize(
    ("pixel", "probes", "what"),
    [
        (7, (), "the network's features"),
        (8, (), "the network's logits"),
        (9, (NotFiniteWhere(9),), "what probe strange reads"),
    ],
)
def test_values_that_are_not_finite_name_the_image(arrays, pixel, probes, what):
    images = np.zeros_like(arrays.images)
    images[[17, 20], 0, 0, 0] = pixel
    broken = ImageArrays(images, arrays.labels, arrays.image_ids)
    with pytest.raises(EvaluationError) as error:
        extract(BrokenFor(), broken, batch_size=5, probes=probes, where="ood/letters")
    assert str(error.value) == (
        f"{what} of image_id 117 of ood/letters must be finite, got NaN or infinity; train the checkpoint again, "
        "or leave it out."
    )


def test_the_last_layer_makes_the_logits_of_the_features(classifier, arrays):
    outputs = extract(classifier, arrays, batch_size=10, probes=(), where="set")
    layer = last_layer_of(classifier)
    torch.testing.assert_close(outputs.features @ layer.weight.T + layer.bias, outputs.logits)
    assert not layer.weight.requires_grad
