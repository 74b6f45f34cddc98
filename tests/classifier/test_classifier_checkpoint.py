"""Classifier checkpoints: identical logits after a round trip, nothing pickled, one clear error for each defect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sio_ray.classifier.checkpoint import load_classifier, read_architecture, save_classifier
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


# Without the 343 MB of a ViT, which pytest would keep for three sessions.
SAVED = [name for name in NETWORKS if name != "vit_b_16"]


@pytest.mark.parametrize(("network", "head"), [*((name, "linear") for name in SAVED), ("small_cnn", "g_odin")])
def test_a_loaded_classifier_gives_identical_logits_in_evaluation_mode(architecture, tmp_path, network, head):
    side = max(8, NETWORKS[network].min_px)
    width = None if NETWORKS[network].default_width is None else 4
    changes = {"network": network, "width": width, "head": head, "image_shape": (1, side, side)}
    architecture = architecture.model_copy(update=changes)
    classifier = trained(architecture)
    save_classifier(tmp_path, architecture, classifier.state_dict())
    loaded = load_classifier(str(tmp_path))
    assert not loaded.training
    assert loaded.architecture == architecture
    images = torch.rand(3, 1, side, side)
    with torch.no_grad():
        assert torch.equal(loaded(images), classifier.eval()(images))


def test_a_checkpoint_from_before_heads_still_loads(folder, architecture):
    described = json.loads((folder / "architecture.json").read_text())
    assert described.pop("head") == "linear"
    (folder / "architecture.json").write_text(json.dumps(described))
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("head.", "network.fc."): value for name, value in weights.items()}
    assert "network.fc.weight" in renamed
    save_file(renamed, folder / "model.safetensors")
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_classifier(folder)(images), trained(architecture).eval()(images))


def test_where_the_weights_come_from_is_kept_for_people(folder, architecture):
    training = {"seed": 3, "arm": "sio", "train": {"real_weight": 0.8}, "versions": {"torch": "2"}}
    weights = load_classifier(folder).state_dict()
    assert read_architecture(folder) == (architecture, {})
    save_classifier(folder, architecture, weights, training=training)
    assert read_architecture(folder) == (architecture, training)
    assert load_classifier(folder).architecture == architecture


def test_a_write_that_is_cut_off_leaves_the_old_weights(folder, architecture, monkeypatch):
    def cut_off(weights, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("sio_ray.classifier.checkpoint.save_file", cut_off)
    with pytest.raises(OSError, match="no space"):
        save_classifier(folder, architecture, trained(architecture).state_dict())
    assert (folder / "model.safetensors").read_bytes() == before
    load_classifier(folder)


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
    ("changes", "differences"),
    [
        ({"width": 12}, "21 of another shape: network.body.0.0.weight, [8, 1, 3, 3] instead of [12, 1, 3, 3] ..."),
        ({"class_names": tuple("abc")}, "2 of another shape: head.weight, [10, 32] instead of [3, 32] ..."),
        (
            {"image_shape": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1)},
            "1 of another shape: network.body.0.0.weight, [8, 1, 3, 3] instead of [8, 3, 3, 3]",
        ),
        ({"head": "g_odin"}, "8 missing: head.h.weight ...; 2 unexpected: head.bias ..."),
    ],
)
def test_weights_of_another_architecture_are_refused(folder, architecture, changes, differences):
    other = architecture.model_copy(update=changes)
    (folder / "architecture.json").write_text(other.model_dump_json())
    assert message_of(folder) == (
        f"the weights in {folder} are of another architecture than small_cnn of width {other.width} "
        f"({differences}); "
        "give the architecture.json that belongs to them."
    )


def test_a_network_that_this_version_lacks_is_refused(folder, architecture):
    (folder / "architecture.json").write_text(architecture.model_copy(update={"network": "vit"}).model_dump_json())
    assert message_of(folder) == (
        "there is no network 'vit'; this version has small_cnn, resnet18_32px, resnet18_64px, wide_resnet_40_2, "
        "densenet_32px, resnet18_224px, resnet50_224px, vit_b_16, "
        "so use the version that wrote the checkpoint."
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"width": 0}, "width"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"std": ()}, "std"),
        ({"class_names": ()}, "class_names"),
        ({"head": "euclid"}, "head"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(folder, architecture, changes, field):
    (folder / "architecture.json").write_text(architecture.model_copy(update=changes).model_dump_json())
    message = message_of(folder)
    assert message.startswith(f"the checkpoint {folder} cannot be read (")
    assert field in message
