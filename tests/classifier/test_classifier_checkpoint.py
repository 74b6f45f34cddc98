"""Classifier checkpoints: identical logits after a round trip, nothing pickled, one clear error for each defect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sio_ray.classifier.checkpoint import load_classifier, save_classifier
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import NETWORKS
from sio_ray.errors import CheckpointError


def trained(architecture: Architecture) -> Classifier:
    """A classifier whose batch norms have seen something."""
    torch.manual_seed(0)
    classifier = Classifier(architecture)
    for _ in range(2):
        classifier(torch.rand(8, *architecture.image_shape))
    return classifier


@pytest.fixture
def folder(architecture, tmp_path) -> Path:
    save_classifier(tmp_path / "run" / "checkpoint", architecture, trained(architecture).state_dict())
    return tmp_path / "run" / "checkpoint"


def message_of(folder: Path | str) -> str:
    with pytest.raises(CheckpointError) as error:
        load_classifier(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_loaded_classifier_gives_identical_logits_in_evaluation_mode(architecture, tmp_path, network):
    architecture = architecture.model_copy(update={"network": network, "width": 4})
    classifier = trained(architecture)
    save_classifier(tmp_path, architecture, classifier.state_dict())
    loaded = load_classifier(str(tmp_path))
    assert not loaded.training
    assert loaded.architecture == architecture
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(images), classifier.eval()(images))


def test_nothing_on_disk_is_pickled(folder):
    assert {path.name for path in folder.iterdir()} == {"architecture.json", "model.safetensors"}
    assert json.loads((folder / "architecture.json").read_text())["network"] == "small_cnn"
    header_bytes = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert json.loads((folder / "model.safetensors").read_bytes()[8 : 8 + header_bytes])


@pytest.mark.parametrize("name", ["architecture.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert (
        message_of(folder) == f"{folder} is no checkpoint ({name} is missing); run `sio-ray train`, or check the path."
    )


def test_a_missing_folder_is_named(tmp_path):
    assert message_of(tmp_path / "no").startswith(
        f"{tmp_path}/no is no checkpoint (architecture.json is missing); run "
    )


@pytest.mark.parametrize("text", ["{", "", "[]", "null", '{"network": "small_cnn"}', "\udcff"])
def test_a_broken_architecture_is_an_error_that_names_the_folder(folder, text):
    (folder / "architecture.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    message = message_of(folder)
    assert message.startswith(f"the checkpoint {folder} cannot be read (")
    assert message.endswith("); delete it and train again.")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_weights_are_an_error_that_names_the_folder(folder, kept):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:kept])
    message = message_of(folder)
    assert message.startswith(f"the checkpoint {folder} cannot be read (")
    assert message.endswith("); delete it and train again.")


@pytest.mark.parametrize(
    ("changes", "num_different", "first"),
    [
        ({"width": 12}, 21, "network.body.0.0.weight"),
        ({"class_names": tuple("abc")}, 2, "network.fc.weight"),
        ({"image_shape": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1)}, 1, "network.body.0.0.weight"),
    ],
)
def test_weights_of_another_architecture_are_refused(folder, architecture, changes, num_different, first):
    other = architecture.model_copy(update=changes)
    (folder / "architecture.json").write_text(other.model_dump_json())
    assert message_of(folder) == (
        f"the weights in {folder} are of another architecture than small_cnn of width {other.width} "
        f"({num_different} tensors differ, the first is {first}); "
        "give the architecture.json that belongs to them."
    )


def test_a_network_that_this_version_lacks_is_refused(folder, architecture):
    (folder / "architecture.json").write_text(architecture.model_copy(update={"network": "vit"}).model_dump_json())
    assert message_of(folder) == (
        "there is no network 'vit'; this version has small_cnn, resnet18_32px, "
        "so use the version that wrote the checkpoint."
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"width": 0}, "width"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"std": ()}, "std"),
        ({"class_names": ()}, "class_names"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(folder, architecture, changes, field):
    (folder / "architecture.json").write_text(architecture.model_copy(update=changes).model_dump_json())
    message = message_of(folder)
    assert message.startswith(f"the checkpoint {folder} cannot be read (")
    assert field in message
