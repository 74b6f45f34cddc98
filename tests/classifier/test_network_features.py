"""Every network in a classifier: features, maps, last layers, normalisation, channels, sizes, widths."""

from __future__ import annotations

import pytest
import torch
from network_samples import architecture_of, classifier_of, images_for

from sio_ray.classifier.model import Classifier
from sio_ray.classifier.networks import NETWORKS, build_network

WITH_WIDTH = [name for name, cls in NETWORKS.items() if cls.default_width is not None]
LARGE = ["resnet50_224px", "vit_b_16"]
QUICK = [name for name in NETWORKS if name not in LARGE]


@pytest.fixture(scope="module", params=NETWORKS)
def network_and_classifier(request) -> tuple[str, Classifier]:
    return request.param, classifier_of(request.param)


@pytest.fixture
def name(network_and_classifier) -> str:
    return network_and_classifier[0]


@pytest.fixture
def classifier(network_and_classifier) -> Classifier:
    return network_and_classifier[1]


def test_logits_are_the_head_of_the_features(classifier):
    images = images_for(classifier)
    with torch.no_grad():
        features, logits = classifier.features(images), classifier(images)
        torch.testing.assert_close(classifier.logits(features), logits)
    assert features.shape == (3, classifier.num_features)
    assert logits.shape == (3, 5)
    layer = classifier.last_layer
    torch.testing.assert_close(logits, features @ layer.weight.T + layer.bias)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("network", QUICK)
def test_any_number_of_channels(network, channels):
    classifier = classifier_of(network, channels)
    assert classifier(images_for(classifier)).isfinite().all()


@pytest.mark.parametrize("network", LARGE)
def test_any_number_of_channels_of_a_large_network(network):
    with torch.device("meta"):
        classifier = Classifier(architecture_of(network, (1, 224, 224)))
    first = classifier.network.conv1 if network == "resnet50_224px" else classifier.network.conv_proj
    assert first.in_channels == 1
    assert classifier(torch.empty(2, 1, 224, 224, device="meta")).shape == (2, 5)


@pytest.mark.parametrize("size", [8, 13, 28, 40])
@pytest.mark.parametrize("network", WITH_WIDTH)
def test_pictures_need_not_be_of_the_size_in_the_name(network, size):
    torch.manual_seed(0)
    classifier = Classifier(architecture_of(network, (3, size, size + 1), width=4))
    assert classifier(torch.rand(2, 3, size, size + 1)).shape == (2, 5)


def test_feature_maps_are_the_stages_first_to_last(name, classifier):
    images = images_for(classifier)
    with torch.no_grad():
        maps, features = classifier.feature_maps(images), classifier.features(images)
    sides = [list(one.shape[2:]) for one in maps]
    assert all(one.ndim == 4 and len(one) == 3 and one.isfinite().all() for one in maps)
    assert maps[-1].shape[1] == classifier.num_features
    assert sides == sorted(sides, reverse=True)
    if name == "vit_b_16":
        assert len(maps) == 13
        assert sides[-1] == [2, 2]
        with torch.no_grad():
            patches = classifier.network.conv_proj((images - classifier.mean) / classifier.std)
        places = classifier.network.encoder.pos_embedding[0, 1:].T.reshape(768, 2, 2)
        torch.testing.assert_close(maps[0], patches + places.detach())
    else:
        assert len(maps) == {"small_cnn": 4, "wide_resnet_40_2": 4, "densenet_32px": 4}.get(name, 5)
        torch.testing.assert_close(maps[-1].mean((2, 3)), features)


def test_normalisation_is_inside_and_per_channel(classifier):
    images = images_for(classifier)
    by_hand = images.clone()
    for channel, (mean, std) in enumerate(zip((0.3, 0.5, 0.6), (0.2, 0.3, 0.1), strict=True)):
        by_hand[:, channel] = (by_hand[:, channel] - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(
            classifier.features(images), classifier.network.features(by_hand), rtol=1e-4, atol=1e-5
        )


def test_evaluation_is_deterministic_and_an_image_does_not_depend_on_its_batch(classifier):
    images = images_for(classifier)
    with torch.no_grad():
        logits = classifier(images)
        assert torch.equal(classifier(images), logits)
        torch.testing.assert_close(classifier(images[2:3]), logits[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", QUICK)
def test_weights_come_from_torchs_seed(network):
    first, same, other = (classifier_of(network, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("network", WITH_WIDTH)
def test_width_scales_the_features(network):
    default = NETWORKS[network].default_width
    with torch.device("meta"):
        sizes = [build_network(network, (1, 32, 32), width).num_features for width in (None, default, 2 * default)]
    assert sizes[0] == sizes[1]
    assert sizes[2] == 2 * sizes[1]
