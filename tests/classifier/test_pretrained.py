"""Starting from torchvision's weights: what fits is loaded, what is new is named, and a file that is missing too."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, ViT_B_16_Weights, resnet18, resnet34, vit_b_16

from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import NETWORKS
from sio_ray.classifier.pretrained import fetch_pretrained, load_pretrained, normalisation_of
from sio_ray.config import load_config
from sio_ray.errors import CheckpointError
from sio_ray.progress import console
from sio_ray.stages.prepare import prepare
from sio_ray.stages.train import _tell_of_new_layers, train

RESNET = "resnet18-f37072fd.pth"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty folder where torch.hub keeps files."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def theirs(hub) -> torch.nn.Module:
    """A network of torchvision, whose weights lie where its pretrained ones would."""
    torch.manual_seed(5)
    network = resnet18().eval()
    torch.save(network.state_dict(), hub / RESNET)
    return network


def architecture(num_classes: int = 1000, channels: int = 3, side: int = 64, **changes) -> Architecture:
    fields = {
        "network": "resnet18_224px",
        "class_names": tuple(map(str, range(num_classes))),
        "image_shape": (channels, side, side),
        "mean": (0.485, 0.456, 0.406)[:channels],
        "std": (0.229, 0.224, 0.225)[:channels],
    }
    return Architecture(**fields | changes)


def test_the_names_are_torchvisions():
    assert Path(ResNet18_Weights.IMAGENET1K_V1.url).name == RESNET
    assert normalisation_of("resnet18_224px", "IMAGENET1K_V1") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_same_classes_and_channels_start_as_torchvisions_network(theirs):
    classifier = Classifier(architecture(), pretrained="IMAGENET1K_V1").eval()
    assert classifier.new_tensors == []
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs((images - classifier.mean) / classifier.std)
        torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({"num_classes": 10}, ["head.weight", "head.bias"]),
        ({"channels": 1}, ["network.conv1.weight"]),
        (
            {"head": "g_odin"},
            [
                *("head.h.weight", "head.g.0.weight", "head.g.0.bias", "head.g.1.weight", "head.g.1.bias"),
                *("head.g.1.running_mean", "head.g.1.running_var"),
            ],
        ),
    ],
)
def test_what_does_not_fit_is_new_and_named(theirs, changes, new):
    torch.manual_seed(0)
    random = Classifier(architecture(**changes)).state_dict()
    torch.manual_seed(0)
    classifier = Classifier(architecture(**changes), pretrained="IMAGENET1K_V1")
    assert classifier.new_tensors == new
    state, pretrained = classifier.state_dict(), theirs.state_dict()
    for name, value in state.items():
        expected = random[name] if name in new or name.startswith("head.g") else None
        expected = expected if expected is not None else pretrained[name.replace("network.", "").replace("head", "fc")]
        assert torch.equal(value, expected), name


def test_training_tells_what_is_new_before_it_starts(theirs, ray_cluster, tmp_path, tiny, monkeypatch):
    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr("sio_ray.stages.train.share_sources", stop)
    weights = ("train.network=resnet18_224px", "train.width=null", "train.pretrained=IMAGENET1K_V1")
    monkeypatch.setattr(NETWORKS["resnet18_224px"], "min_px", 8)
    config = load_config("digits", [*tiny, *weights, "train.arms=[baseline]", f"output_dir={tmp_path / 'runs'}"])
    prepare(config)
    with console.capture() as capture, pytest.raises(InterruptedError):
        train(config)
    told = "  resnet18_224px starts from IMAGENET1K_V1; new layers: network.conv1, head"
    assert told in capture.get().splitlines()


def test_weights_that_all_fit_are_told_so(theirs):
    with console.capture() as capture:
        _tell_of_new_layers(architecture(), "IMAGENET1K_V1")
    assert capture.get() == "  resnet18_224px starts from IMAGENET1K_V1; new layers: none\n"


def test_a_vits_places_are_interpolated(hub, monkeypatch):
    torch.manual_seed(0)
    theirs = vit_b_16(image_size=32, num_classes=2)
    (hub / Path(ViT_B_16_Weights.IMAGENET1K_V1.url).name).touch()
    monkeypatch.setattr("sio_ray.classifier.pretrained.read_state_dict", lambda _: theirs.state_dict())
    classifier = Classifier(architecture(2, side=64, network="vit_b_16"), pretrained="IMAGENET1K_V1")
    assert classifier.new_tensors == []
    places = classifier.network.encoder.pos_embedding[0]
    assert places.shape == (17, 768)
    before = theirs.encoder.pos_embedding[0]
    assert torch.equal(places[0], before[0]), "the class token has no place"
    # Corners stay corners: 2x2 patches became 4x4.
    torch.testing.assert_close(places[[1, 4, 13, 16]], before[1:], rtol=1e-4, atol=1e-6)


def test_a_download_is_checked_by_its_name(hub, monkeypatch, tmp_path):
    """The file is served from this disk: its digest is not that of its name until the name is made of it."""
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name, taken in ((f"net-{digest}.pth", True), ("net-00000000.pth", False)):
        served = tmp_path / name
        served.write_bytes(content)
        weights = type("Weights", (), {"url": served.as_uri()})
        monkeypatch.setattr("sio_ray.classifier.pretrained._weights", lambda *_, weights=weights: weights)
        if taken:
            assert fetch_pretrained("resnet18_224px", "X").read_bytes() == content
        else:
            with pytest.raises(CheckpointError, match=r"cannot be downloaded \(invalid hash value"):
                fetch_pretrained("resnet18_224px", "X")
            assert not (hub / name).exists()


def test_without_network_it_says_what_to_put_where(hub, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(CheckpointError) as error:
        Classifier(architecture(), pretrained="IMAGENET1K_V1")
    assert str(error.value) == (
        "the weights IMAGENET1K_V1 of resnet18_224px cannot be downloaded "
        "(<urlopen error [Errno -2] Name or service not known>); "
        f"fetch {ResNet18_Weights.IMAGENET1K_V1.url} elsewhere and put it at {hub / RESNET}."
    )


def test_a_broken_file_is_named(hub):
    (hub / RESNET).write_bytes(b"<html>" * 20)
    with pytest.raises(CheckpointError, match=rf"{RESNET} cannot be read as tensors by name \("):
        load_pretrained(Classifier(architecture()), "IMAGENET1K_V1")


def test_a_file_of_another_network_is_refused_and_changes_nothing(hub):
    torch.save(resnet34().state_dict() | {"conv1.weight": torch.zeros(64, 4, 7, 7)}, hub / RESNET)
    classifier = Classifier(architecture())
    before = classifier.network.bn1.running_mean.clone()
    with pytest.raises(CheckpointError) as error:
        load_pretrained(classifier, "IMAGENET1K_V1")
    assert str(error.value) == (
        f"{hub / RESNET} does not hold resnet18_224px (1 tensors are missing or of another shape, the first is "
        "conv1.weight); delete it, so that it is fetched again."
    )
    assert torch.equal(classifier.network.bn1.running_mean, before)
