"""Networks that cannot be built are refused with the reason and a remedy."""

from __future__ import annotations

import pytest

from sio_ray.classifier.networks import NETWORKS, build_network, check_network
from sio_ray.errors import CheckpointError, ConfigError


def test_an_unknown_network_names_those_there_are():
    with pytest.raises(CheckpointError) as error:
        build_network("resnet101", (1, 32, 32))
    assert str(error.value) == (
        "there is no network 'resnet101'; this version has small_cnn, resnet18_32px, resnet18_64px, wide_resnet_40_2, "
        "densenet_32px, resnet18_224px, resnet50_224px, vit_b_16, so use the version that wrote the checkpoint."
    )


@pytest.mark.parametrize(
    ("network", "image_shape", "width", "reason"),
    [
        ("resnet18_224px", (3, 224, 224), 64, "has one width"),
        ("resnet18_32px", (3, 7, 8), 64, "needs at least 8x8 px"),
        ("vit_b_16", (3, 224, 240), None, "needs squares whose side is a multiple of 16 px"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(network, image_shape, width, reason):
    with pytest.raises(CheckpointError) as error:
        build_network(network, image_shape, width)
    assert str(error.value) == (
        f"there is no {network} of width {width} for pictures of {image_shape} (it {reason}); "
        "use the architecture.json that belongs to the weights."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("resnet18_32", None, None, None),
            "train.network must be among small_cnn, resnet18_32px, resnet18_64px, wide_resnet_40_2, densenet_32px, "
            "resnet18_224px, resnet50_224px, vit_b_16, got 'resnet18_32'; did you mean resnet18_32px.",
        ),
        (
            ("resnet50_224px", None, None, (3, 16, 20)),
            "train.network must be one for pictures of 20x16 px, got 'resnet50_224px'; it needs at least 32x32 px: "
            "take one of small_cnn, resnet18_32px, resnet18_64px, wide_resnet_40_2, densenet_32px.",
        ),
        (
            ("small_cnn", None, None, (3, 2, 2)),
            "train.network must be one for pictures of 2x2 px, got 'small_cnn'; it needs at least 4x4 px: "
            "prepare larger pictures.",
        ),
        (
            ("resnet18_224px", 64, None, (3, 224, 224)),
            "train.width must be left out for resnet18_224px, got 64; that network has one width.",
        ),
        (
            ("resnet18_32px", None, "IMAGENET1K_V1", (3, 32, 32)),
            "train.pretrained must be left out for resnet18_32px, got 'IMAGENET1K_V1'; "
            "torchvision has weights for resnet18_224px, resnet50_224px, vit_b_16.",
        ),
        (
            ("resnet50_224px", None, "DEFAULT", (3, 224, 224)),
            "train.pretrained must be among IMAGENET1K_V1, IMAGENET1K_V2, got 'DEFAULT'; choose from these.",
        ),
        (
            ("small_cnn", None, None, (3, 8, 8), "euclid"),
            "train.algorithm must be one with a head among linear, g_odin, got 'euclid'; mend its `head`.",
        ),
    ],
)
def test_what_train_could_not_build_is_refused_before(arguments, message):
    with pytest.raises(ConfigError) as error:
        check_network(*arguments)
    assert str(error.value) == message


def test_what_train_can_build_is_let_through():
    for name, cls in NETWORKS.items():
        side = max(32, cls.min_px)
        check_network(name, cls.default_width, None, (1, side, side), "g_odin")
        check_network(name, None, None, None)
    check_network("vit_b_16", None, "IMAGENET1K_SWAG_E2E_V1", (3, 384, 384))
