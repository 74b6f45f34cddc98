"""Every network, and the classifier around it: shapes, the last layer, and normalisation inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sio_ray.classifier.model import Architecture, Classifier, pixel_statistics
from sio_ray.classifier.networks import NETWORKS
from sio_ray.errors import CheckpointError


def classifier_of(network: str, channels: int, size: int = 12, num_classes: int = 5, width: int = 4) -> Classifier:
    torch.manual_seed(0)
    architecture = Architecture(
        network=network,
        width=width,
        class_names=tuple(f"c{c}" for c in range(num_classes)),
        image_shape=(channels, size, size),
        mean=(0.3, 0.5, 0.6)[:channels],
        std=(0.2, 0.3, 0.1)[:channels],
    )
    return Classifier(architecture).eval()


@pytest.mark.parametrize("size", [8, 13, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_the_last_layer_of_the_features_at_any_picture_size(network, channels, size):
    classifier = classifier_of(network, channels, size)
    images = torch.rand(3, channels, size, size)
    with torch.no_grad():
        features, logits = classifier.features(images), classifier(images)
    assert features.shape == (3, classifier.last_layer.in_features)
    assert logits.shape == (3, 5)
    expected = features @ classifier.last_layer.weight.T + classifier.last_layer.bias
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_normalisation_is_inside_and_per_channel(network):
    classifier = classifier_of(network, 3)
    images = torch.rand(2, 3, 12, 12)
    by_hand = images.clone()
    for channel, (mean, std) in enumerate(zip((0.3, 0.5, 0.6), (0.2, 0.3, 0.1), strict=True)):
        by_hand[:, channel] = (by_hand[:, channel] - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), classifier.network(by_hand), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_in_evaluation_an_image_does_not_depend_on_its_batch(network):
    classifier = classifier_of(network, 1)
    images = torch.rand(4, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images)[2:3], classifier(images[2:3]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_width_scales_the_features(network):
    small, large = (classifier_of(network, 1, width=width).last_layer.in_features for width in (4, 8))
    assert large == 2 * small


def test_resnet18_is_openoods_tensor_by_tensor():
    state = NETWORKS["resnet18_32px"](3, 10, 64).state_dict()
    blocks = [
        f"layer{stage}.{block}.{part}" for stage in range(1, 5) for block in range(2) for part in ("conv{}", "bn{}")
    ]
    convolutions = ["conv1", *[name.format(i) for name in blocks if "conv" in name for i in (1, 2)]]
    norms = ["bn1", *[name.format(i) for name in blocks if "bn" in name for i in (1, 2)]]
    convolutions += [f"layer{stage}.0.shortcut.0" for stage in (2, 3, 4)]
    norms += [f"layer{stage}.0.shortcut.1" for stage in (2, 3, 4)]
    of_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"{name}.weight" for name in convolutions} | {f"{name}.{part}" for name in norms for part in of_norm}
    assert set(state) == expected | {"fc.weight", "fc.bias"}
    assert len(state) == 122
    assert sum(p.numel() for p in NETWORKS["resnet18_32px"](3, 10, 64).parameters()) == 11_173_962
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["fc.weight"].shape == (10, 512)


def test_an_unknown_network_names_those_there_are():
    with pytest.raises(CheckpointError) as error:
        classifier_of("resnet50", 1)
    assert str(error.value) == (
        "there is no network 'resnet50'; this version has small_cnn, resnet18_32px, "
        "so use the version that wrote the checkpoint."
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_statistics_are_numpys(channels):
    images = np.random.default_rng(0).integers(0, 200, (17, channels, 5, 6), dtype=np.uint8)
    images[:, 0] //= 3
    mean, std = pixel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_does_not_divide_by_zero():
    images = np.full((3, 2, 4, 4), 51, dtype=np.uint8)
    images[0, 1] = 0
    mean, std = pixel_statistics(images)
    assert mean[0] == pytest.approx(0.2)
    assert std[0] == 1 / 255
    assert std[1] > 1 / 255
