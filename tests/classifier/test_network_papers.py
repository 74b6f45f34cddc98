"""Networks are those of their papers: sizes, tensors, and what they compute, written a second time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from network_samples import SMALL, architecture_of, classifier_of, images_for

from sio_ray.classifier.model import Classifier
from sio_ray.classifier.networks import NETWORKS, Network, build_network


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
