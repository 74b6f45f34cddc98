"""Every network, and the classifier around it: published sizes, features, maps, last layers, crops, normalisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import NETWORKS, GODINHead, Network, build_network, check_network
from sio_ray.errors import BatchError, CheckpointError, ConfigError, EvaluationError

#: The smallest that is quick: side of the pictures, and a width where the network has one of its own.
SMALL = {
    name: (max(8, cls.min_px), None if cls.default_width is None else max(4, cls.default_width // 8))
    for name, cls in NETWORKS.items()
}
WITH_WIDTH = [name for name, cls in NETWORKS.items() if cls.default_width is not None]
LARGE = ["resnet50_224px", "vit_b_16"]
QUICK = [name for name in NETWORKS if name not in LARGE]


def architecture_of(network: str, image_shape: tuple[int, int, int], **changes) -> Architecture:
    channels = image_shape[0]
    fields = {
        "network": network,
        "class_names": tuple(f"c{c}" for c in range(5)),
        "image_shape": image_shape,
        "mean": (0.3, 0.5, 0.6, 0.4)[:channels],
        "std": (0.2, 0.3, 0.1, 0.5)[:channels],
    }
    return Architecture(**fields | changes)


def classifier_of(network: str, channels: int = 3, seed: int = 0, **changes) -> Classifier:
    """Small, in evaluation mode, with batch norms that have seen something."""
    torch.manual_seed(seed)
    size, width = SMALL[network]
    architecture = architecture_of(network, (channels, size, size), **{"width": width} | changes)
    classifier = Classifier(architecture)
    with torch.no_grad():
        classifier(torch.rand(4, *architecture.image_shape))
    return classifier.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def network_and_classifier(request) -> tuple[str, Classifier]:
    return request.param, classifier_of(request.param)


@pytest.fixture
def name(network_and_classifier) -> str:
    return network_and_classifier[0]


@pytest.fixture
def classifier(network_and_classifier) -> Classifier:
    return network_and_classifier[1]


def images_for(classifier: Classifier, count: int = 3) -> torch.Tensor:
    return torch.rand(count, *classifier.architecture.image_shape, generator=torch.Generator().manual_seed(1))


def size_by_hand(network: str, num_classes: int) -> int:
    """Parameters by the papers' tables: convolutions without bias, two numbers a channel for each batch norm."""
    if network == "wide_resnet_40_2":
        total, num_in = 3 * 16 * 9, 16
        for width in (32, 64, 128):
            for _ in range(6):
                total += 2 * num_in + 9 * num_in * width + 2 * width + 9 * width * width
                total += num_in * width if num_in != width else 0
                num_in = width
        return total + 2 * 128 + 128 * num_classes + num_classes
    total, num_in = 3 * 24 * 9, 24
    for stage in range(3):
        for _ in range(16):
            total += 2 * num_in + num_in * 48 + 2 * 48 + 9 * 48 * 12
            num_in += 12
        if stage < 2:
            total += 2 * num_in + num_in * (num_in // 2)
            num_in //= 2
    return total + 2 * num_in + num_in * num_classes + num_classes


@pytest.mark.parametrize(
    ("network", "px", "num_classes", "num_parameters"),
    [
        ("resnet18_32px", 32, 10, 11_173_962),
        ("resnet18_64px", 64, 200, 11_271_432),
        ("wide_resnet_40_2", 32, 10, 2_243_546),
        ("densenet_32px", 32, 10, 769_162),
        ("resnet18_224px", 224, 1000, 11_689_512),
        ("resnet50_224px", 224, 1000, 25_557_032),
        ("vit_b_16", 224, 1000, 86_567_656),
    ],
)
def test_sizes_are_the_published_ones(network, px, num_classes, num_parameters):
    with torch.device("meta"):
        names = tuple(map(str, range(num_classes)))
        classifier = Classifier(architecture_of(network, (3, px, px), class_names=names))
    assert sum(p.numel() for p in classifier.parameters()) == num_parameters
    if network in ("wide_resnet_40_2", "densenet_32px"):
        assert size_by_hand(network, num_classes) == num_parameters


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


def test_resnet18_is_openoods_tensor_by_tensor():
    with torch.device("meta"):
        state = build_network("resnet18_32px", (3, 32, 32)).state_dict()
    blocks = [
        f"layer{stage}.{block}.{part}" for stage in range(1, 5) for block in range(2) for part in ("conv{}", "bn{}")
    ]
    convolutions = ["conv1", *[name.format(i) for name in blocks if "conv" in name for i in (1, 2)]]
    norms = ["bn1", *[name.format(i) for name in blocks if "bn" in name for i in (1, 2)]]
    convolutions += [f"layer{stage}.0.shortcut.0" for stage in (2, 3, 4)]
    norms += [f"layer{stage}.0.shortcut.1" for stage in (2, 3, 4)]
    of_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(state) == {f"{name}.weight" for name in convolutions} | {
        f"{name}.{part}" for name in norms for part in of_norm
    }
    assert len(state) == 120, "122 with the last layer's two"
    assert state["conv1.weight"].shape == (64, 3, 3, 3)


def norm_relu(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    shift = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *shift))


def network_with_random_norms(network: str, **changes) -> Network:
    """Batch norms as no training starts: a shift of zero hides where a ReLU stands."""
    body = classifier_of(network, **changes).network
    for module in body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return body


def test_wide_resnet_is_the_papers():
    """Written a second time, on the bare tensors: BN-ReLU-conv twice, the shortcut of a new width after BN-ReLU."""
    network = network_with_random_norms("wide_resnet_40_2")
    state = network.state_dict()
    images = torch.rand(2, 3, 16, 16)
    x = F.conv2d(images, state["conv1.weight"], padding=1)
    for layer in (1, 2, 3):
        for block in range(6):
            key = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            active = norm_relu(x, state, f"{key}.bn1")
            out = F.conv2d(active, state[f"{key}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(norm_relu(out, state, f"{key}.bn2"), state[f"{key}.conv2.weight"], padding=1)
            short = f"{key}.shortcut.weight"
            x = out + (F.conv2d(active, state[short], stride=stride) if short in state else x)
    expected = norm_relu(x, state, "bn").mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network.features(images), expected, rtol=1e-4, atol=1e-5)


def test_densenet_is_the_papers():
    """Written a second time, on the bare tensors: BN-ReLU-conv 1x1, BN-ReLU-conv 3x3, joined to the input."""
    network = network_with_random_norms("densenet_32px", width=8)
    state = network.state_dict()
    images = torch.rand(2, 3, 16, 16)
    x = F.conv2d(images, state["conv1.weight"], padding=1)
    for layer in (1, 2, 3):
        for block in range(16):
            key = f"layer{layer}.{block}"
            out = F.conv2d(norm_relu(x, state, f"{key}.bn1"), state[f"{key}.conv1.weight"])
            out = F.conv2d(norm_relu(out, state, f"{key}.bn2"), state[f"{key}.conv2.weight"], padding=1)
            x = torch.cat([x, out], 1)
        if layer < 3:
            key = f"transition{layer}"
            x = F.avg_pool2d(F.conv2d(norm_relu(x, state, f"{key}.bn"), state[f"{key}.conv.weight"]), 2)
    expected = norm_relu(x, state, "bn").mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network.features(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["wide_resnet_40_2", "densenet_32px"])
def test_convolutions_start_as_he_has_them(network):
    torch.manual_seed(0)
    weights = [value for key, value in build_network(network, (3, 32, 32)).state_dict().items() if value.ndim == 4]
    for weight in weights:
        assert_he(weight)


def assert_he(weight: torch.Tensor) -> None:
    """The standard deviation is sqrt(2 / fan_out), within five standard errors."""
    expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
    assert abs(weight.std().item() - expected) < 5 * expected / math.sqrt(2 * weight.numel())


def test_a_new_first_convolution_starts_as_torchvisions():
    torch.manual_seed(0)
    assert_he(build_network("resnet18_224px", (1, 32, 32)).conv1.weight)


@pytest.mark.parametrize("network", ["resnet18_224px", "resnet50_224px", "vit_b_16"])
def test_torchvisions_networks_load_the_weights_and_say_the_same(network):
    from torchvision.models import get_model

    classifier = classifier_of(network)
    theirs = get_model(NETWORKS[network].torchvision_name, num_classes=5, **vit_size(network)).eval()
    head = "heads.head" if network == "vit_b_16" else "fc"
    state = {
        f"{head}.{name.removeprefix('head.')}" if name.startswith("head.") else name.removeprefix("network."): value
        for name, value in classifier.state_dict().items()
    }
    theirs.load_state_dict(state, strict=True)
    images = images_for(classifier)
    with torch.no_grad():
        expected = theirs((images - classifier.mean) / classifier.std)
        torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-5)


def vit_size(network: str) -> dict[str, int]:
    return {"image_size": SMALL[network][0]} if network == "vit_b_16" else {}


def test_godins_logits_are_a_cosine_over_a_sigmoid():
    torch.manual_seed(0)
    head = GODINHead(7, 4)
    head(3 * torch.rand(64, 7))
    head.eval()
    features = torch.randn(5, 7)
    state = {name: value.double().numpy() for name, value in head.state_dict().items()}
    x = features.double().numpy()
    h = np.stack([[row @ w / np.linalg.norm(row) / np.linalg.norm(w) for w in state["h.weight"]] for row in x])
    z = x @ state["g.0.weight"][0] + state["g.0.bias"]
    z = (z - state["g.1.running_mean"]) / np.sqrt(state["g.1.running_var"] + 1e-5) * state["g.1.weight"]
    g = 1 / (1 + np.exp(-z - state["g.1.bias"]))
    with torch.no_grad():
        np.testing.assert_allclose(head.numerators(features).numpy(), h, rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(head(features).numpy(), h / g[:, None], rtol=2e-3, atol=1e-5)
    assert (np.abs(h) <= 1).all()
    assert set(head.state_dict()) == {
        *("h.weight", "g.0.weight", "g.0.bias", "g.1.weight", "g.1.bias"),
        *("g.1.running_mean", "g.1.running_var", "g.1.num_batches_tracked"),
    }


def test_godins_head_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    head = GODINHead(512, 10).eval()
    features = torch.randn(4, 512)
    with torch.no_grad():
        expected = head(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(head(features), expected)


def test_a_classifier_with_godins_head_has_no_last_layer_to_read():
    classifier = classifier_of("small_cnn", head="g_odin")
    images = images_for(classifier)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), classifier.head(classifier.features(images)))
    with pytest.raises(EvaluationError) as error:
        _ = classifier.last_layer
    assert str(error.value) == (
        "a classifier with the head g_odin has no linear last layer for a detector to read; "
        "leave out the detectors that need one, such as vim."
    )


@pytest.mark.parametrize(("stored", "top", "left"), [((12, 16), 2, 4), ((13, 11), 2, 2), ((8, 9), 0, 0)])
def test_evaluation_crops_the_centre_of_larger_pictures(stored, top, left):
    classifier = classifier_of("small_cnn")
    images = torch.rand(2, 3, *stored)
    centre = images[:, :, top : top + 8, left : left + 8]
    with torch.no_grad():
        for ask in (classifier, classifier.features, lambda x: classifier.feature_maps(x)[0]):
            assert torch.equal(ask(images), ask(centre.contiguous()))
    from torchvision.transforms.v2.functional import center_crop

    assert torch.equal(center_crop(images, [8, 8]), centre)


def test_pictures_of_other_sizes_are_refused():
    classifier = classifier_of("small_cnn")
    with pytest.raises(BatchError) as error:
        classifier(torch.rand(2, 3, 12, 7))
    assert str(error.value) == (
        "pictures must be of 8x8 px or more, got 7x12; give pictures as the classifier was trained on."
    )
    with pytest.raises(BatchError) as error:
        classifier.train()(torch.rand(2, 3, 12, 8))
    assert str(error.value) == "pictures must be of 8x8 px, got 8x12; give pictures as the classifier was trained on."


@pytest.mark.parametrize(
    ("class_names", "image_shape", "suits"),
    [
        (("c0", "c1", "c2", "c3", "c4"), (3, 8, 8), True),
        (("c0", "c1", "c2", "c3", "c4"), (3, 10, 8), True),
        (("c0", "c1", "c2", "c3", "c4"), (3, 10, 7), False),
        (("c0", "c1", "c2", "c3", "c4"), (1, 8, 8), False),
        (("c1", "c0", "c2", "c3", "c4"), (3, 8, 8), False),
    ],
)
def test_an_architecture_suits_sets_of_its_classes_and_of_pictures_that_hold_its_own(class_names, image_shape, suits):
    assert architecture_of("small_cnn", (3, 8, 8)).suits(class_names, image_shape) is suits


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
