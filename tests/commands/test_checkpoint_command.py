"""`sio-ray checkpoint`: what it prints, what it writes, and what it says of wrong usage."""

from __future__ import annotations

import json

import pytest
import torch
import typer

from sio_ray.classifier.checkpoint import load_classifier, save_classifier
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.commands.checkpoint import app
from sio_ray.errors import CheckpointError, ConfigError

TRAINING = {"arm": "sio", "seed": 0, "train": {"real_weight": 0.8}}


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    architecture = Architecture(
        network="resnet18_32px",
        class_names=("cat", "dog"),
        image_shape=(3, 32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    save_classifier(tmp_path / "trained", architecture, Classifier(architecture).state_dict(), training=TRAINING)
    return tmp_path / "trained"


def run(*arguments: object) -> None:
    typer.main.get_command(app)([str(argument) for argument in arguments], standalone_mode=False)


def test_show_says_what_a_checkpoint_is(checkpoint, capsys):
    run("show", checkpoint)
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {key: value.rstrip() for key, value in lines.items()} == {
        "network": "resnet18_32px",
        "head": "linear",
        "features": "512",
        "parameters": "11,169,858",
        "classes": "2: cat, dog",
        "pictures": "32x32 px, 3 channels",
        "mean": "0.4914, 0.4822, 0.4465",
        "std": "0.2470, 0.2435, 0.2616",
        "arm": "sio",
        "seed": "0",
        "train": '{"real_weight": 0.8}',
    }


def test_show_as_json_is_all_of_it(checkpoint, capsys):
    run("show", checkpoint, "--json")
    described = json.loads(capsys.readouterr().out)
    assert described["training"] == TRAINING
    assert (described["network"], described["num_features"], described["num_parameters"]) == (
        "resnet18_32px",
        512,
        11_169_858,
    )
    assert described["class_names"] == ["cat", "dog"]


@pytest.mark.parametrize(
    "given", [["--normalisation", "cifar10"], ["--mean", ".4914,.4822,.4465", "--std", ".247,.2435,.2616"]]
)
def test_export_and_import_give_the_same_classifier(checkpoint, given, tmp_path, capsys):
    file, back = tmp_path / "best.ckpt", tmp_path / "back"
    run("export", checkpoint, file, "--format", "openood")
    message = capsys.readouterr().err.replace("\n", " ")
    assert f"wrote {file}: 122 tensors of OpenOOD's ResNet18_32x32 with 2 classes; its transform must " in message
    assert "normalise by mean [0.4914, 0.4822, 0.4465] and std [0.247, 0.2435, 0.2616]" in message
    run("import", file, back, "--network", "resnet18_32px", "--class-names", "cat, dog", *given)
    assert f"wrote {back}: resnet18_32px for 2 classes" in capsys.readouterr().err.replace("\n", " ")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_classifier(back)(images), load_classifier(checkpoint)(images))
    assert load_classifier(back).architecture == load_classifier(checkpoint).architecture


KNOWN = "--normalisation must be among cifar10, cifar100, imagenet, or left out with --mean and --std given, got "


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], f"{KNOWN}None; give what OpenOOD's transform used."),
        (["--mean", "1,1,1"], f"{KNOWN}'nothing with --mean'; give what OpenOOD's transform used."),
        (["--normalisation", "mnist"], f"{KNOWN}'mnist'; give what OpenOOD's transform used."),
        (
            ["--normalisation", "cifar10", "--std", "1,1,1"],
            f"{KNOWN}'cifar10 with --std'; give what OpenOOD's transform used.",
        ),
        (
            ["--mean", "1,1,x", "--std", "1,1,1"],
            "--mean must be numbers with commas between them, got '1,1,x'; give e.g. 0.5,0.5,0.5.",
        ),
        (
            ["--mean", "1,1", "--std", "1,1,1"],
            "--mean and --std must be three numbers each, std greater than 0, got ((1.0, 1.0), (1.0, 1.0, 1.0)); "
            "one per channel.",
        ),
    ],
)
def test_a_wrong_normalisation_is_named(checkpoint, given, message, tmp_path):
    run("export", checkpoint, tmp_path / "best.ckpt", "--format", "openood")
    with pytest.raises(ConfigError) as error:
        run("import", tmp_path / "best.ckpt", tmp_path / "back", "--network", "resnet18_32px", *given)
    assert str(error.value) == message


def test_another_format_or_no_checkpoint_is_named(checkpoint, tmp_path):
    with pytest.raises(ConfigError) as error:
        run("export", checkpoint, tmp_path / "x", "--format", "onnx")
    assert str(error.value) == "--format must be among openood, got 'onnx'; choose from these."
    with pytest.raises(CheckpointError, match=r"no is no checkpoint \(architecture\.json is missing\)"):
        run("show", tmp_path / "no")
