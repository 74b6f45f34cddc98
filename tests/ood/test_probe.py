"""One pass of a batch serves all probes, and no image depends on its batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from trained_digits import TrainedDigits

from sio_ray.classifier.ensemble import Ensemble
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import Network
from sio_ray.errors import EvaluationError
from sio_ray.ood.probe import BatchPass, Probe, no_graph, pack, unpack


def classifier(network: str = "small_cnn", width: int | None = 8, head: str = "linear") -> Classifier:
    torch.manual_seed(0)
    px = 8 if network == "small_cnn" else 32
    made = Classifier(
        Architecture(
            network=network,
            width=width,
            head=head,
            class_names=tuple("abcd"),
            image_shape=(1, px, px),
            mean=(0.4,),
            std=(0.3,),
        )
    )
    # So that normalisation does something, and no ReLU is dead.
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
    return made.eval().requires_grad_(False)


def pictures(num_images: int = 5, px: int = 8) -> Tensor:
    return torch.rand(num_images, 1, px, px, generator=torch.Generator().manual_seed(1))


@contextmanager
def counted_forwards(network: Classifier) -> Iterator[list[int]]:
    """Images of each pass through the first module that has weights."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    passes: list[int] = []
    handle = first.register_forward_hook(lambda _module, inputs, _output: passes.append(len(inputs[0])))
    yield passes
    handle.remove()


@dataclass(frozen=True)
class Wants(Probe):
    size: float = 1.0
    name = "wants"
    reads_maps = True

    def read(self, batch: BatchPass) -> Tensor:
        return no_graph(batch.maps[0] * self.size)


@pytest.mark.parametrize(
    ("network", "width"),
    [("small_cnn", 4), ("resnet18_32px", 4), ("wide_resnet_40_2", 4), ("densenet_32px", 8)],
)
def test_features_of_maps_are_the_features(network: str, width: int) -> None:
    made = classifier(network, width)
    images = pictures(3, made.architecture.image_shape[1])
    with torch.no_grad():
        expected, maps = made.features(images), made.feature_maps(images)
        for num_left, from_stage in enumerate(reversed(maps)):
            assert made.features_from(from_stage, num_left).equal(expected)
    with_maps = BatchPass(made, images, with_maps=True, with_gradient=True)
    assert with_maps.features.equal(expected)
    assert with_maps.logits.equal(made(images))
    assert BatchPass(made, images).features.equal(expected)


def test_one_forward_serves_everything() -> None:
    network = classifier()
    with counted_forwards(network) as passes:
        batch = BatchPass(network, pictures(), with_gradient=True, with_maps=True)
        assert passes == []
        _ = batch.logits, batch.features, batch.maps, batch.logits
        for row in range(3):
            batch.gradient(batch.logits, nn.functional.one_hot(torch.full((5,), row), 4))
        batch.gradient(batch.maps[1], torch.ones(5, 16, 8, 8))
    assert passes == [5]


class TokensOnly(Network):
    """Its features are not in its maps, as a transformer's class token."""

    def __init__(self) -> None:
        super().__init__((1, 8, 8), None)
        self.conv = nn.Conv2d(1, 6, 3)

    def stages(self) -> list[nn.Module]:
        return [self.conv]

    def pool(self, last: Tensor) -> Tensor:
        return last.flatten(1)[:, :32]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)[:, 1:]]


def test_maps_that_do_not_hold_the_features_cost_a_second_pass() -> None:
    network = classifier()
    network.network = TokensOnly()
    assert not network.resumable
    with counted_forwards(network) as passes:
        batch = BatchPass(network, pictures(), with_maps=True)
        assert batch.features.equal(network.features(pictures()))
        assert batch.maps[0].shape == (5, 5, 6, 6)
    assert passes == [5, 5, 5]
    with pytest.raises(EvaluationError) as error:
        network.features_from(batch.maps[0], 0)
    assert str(error.value) == "features of small_cnn cannot be made of its feature maps; give it pictures."


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_is_that_of_each_image_alone(mode: type) -> None:
    network = classifier()
    images, direction = pictures(), torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    expected = []
    for image, of_image in zip(images, direction, strict=True):
        alone = image[None].clone().requires_grad_()
        (network(alone)[0] @ of_image).backward()
        expected.append(alone.grad)
    before = images.clone()
    network.requires_grad_(True)
    with mode():
        batch = BatchPass(network, images, with_gradient=True)
        gradient = batch.gradient(batch.logits, direction.double())
    torch.testing.assert_close(gradient, torch.cat(expected), rtol=1e-5, atol=1e-7)
    assert images.equal(before)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_pass_without_gradient_keeps_no_graph() -> None:
    network = classifier().requires_grad_(True)
    images = pictures()
    batch = BatchPass(network, images, with_maps=True)
    assert not batch.logits.requires_grad
    assert batch.images is images


def test_sign_of_zero_is_plus() -> None:
    batch = BatchPass(classifier(), torch.full((1, 1, 1, 4), 0.5), with_gradient=True)
    stepped = batch.step(torch.tensor([-3.0, -0.0, 0.0, 1e-30]).view(1, 1, 1, 4), 0.25)
    assert stepped.flatten().tolist() == [0.25, 0.75, 0.75, 0.75]
    assert not stepped.requires_grad


@pytest.mark.parametrize("widths", [(1,), (3, 5, 2), (7, 1, 1, 4096)])
def test_unpack_undoes_pack(widths: tuple[int, ...]) -> None:
    parts = [torch.randn(4, width) for width in widths]
    rows = pack(parts)
    assert rows.shape == (4, 1 + len(widths) + sum(widths))
    assert rows[2:3].equal(pack([part[2:3] for part in parts]))
    for unpacked, part in zip(unpack(rows), parts, strict=True):
        assert unpacked.equal(part)
        assert unpacked.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()


def test_a_network_without_maps_is_refused(digits: TrainedDigits) -> None:
    ensemble = Ensemble([digits.network, digits.network])
    assert Wants().refusal(digits.network) is None
    assert Wants().refusal(ensemble) == "feature maps"
    with pytest.raises(EvaluationError) as error:
        _ = BatchPass(ensemble, digits.images["val"]).maps
    assert str(error.value) == (
        "a probe must be given a network with feature maps, got Ensemble; leave out the detectors that read them."
    )
    assert BatchPass(ensemble, digits.images["val"], with_gradient=True).logits.shape == (150, 6)


def test_identity_tells_probes_apart() -> None:
    assert Wants().identity() == {"probe": "wants", "size": 1.0}
    assert json.dumps(Wants().identity()) != json.dumps(Wants(2.0).identity())


def test_a_probe_without_a_fit_is_itself(digits: TrainedDigits) -> None:
    assert Wants(3.0).fitted(digits.train) == Wants(3.0)
