"""Exchange with OpenOOD: its key names and its forward pass are written here, so OpenOOD need not be installed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sio_ray.classifier.checkpoint import load_classifier, save_classifier
from sio_ray.classifier.exchange import NORMALISATIONS, export_openood, import_openood
from sio_ray.classifier.foreign_weights import openood_names
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import CheckpointError, ConfigError

MEAN, STD = NORMALISATIONS["cifar10"]


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    of_width = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))
    return {f"{name}.{part}": shape for part, shape in {**of_width, "num_batches_tracked": ()}.items()}


def openood_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """Key to shape of OpenOOD v1.5's ResNet18_32x32, in its order."""
    shapes = {"conv1.weight": (64, 3, 3, 3), **norm_shapes("bn1", 64)}
    num_in = 64
    for layer, width in ((1, 64), (2, 128), (3, 256), (4, 512)):
        for block in (0, 1):
            key = f"layer{layer}.{block}"
            shapes[f"{key}.conv1.weight"] = (width, num_in, 3, 3)
            shapes |= norm_shapes(f"{key}.bn1", width)
            shapes[f"{key}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm_shapes(f"{key}.bn2", width)
            if num_in != width:
                shapes[f"{key}.shortcut.0.weight"] = (width, num_in, 1, 1)
                shapes |= norm_shapes(f"{key}.shortcut.1", width)
            num_in = width
    return shapes | {"fc.weight": (num_classes, 512), "fc.bias": (num_classes,)}


def godin_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """Key to shape of OpenOOD v1.5's GodinNet around it."""
    body = {f"backbone.{key}": shape for key, shape in openood_shapes(1).items() if not key.startswith("fc.")}
    head = {"h.h.weight": (num_classes, 512), "g.0.weight": (1, 512), "g.0.bias": (1,)}
    return body | head | norm_shapes("g.1", 1)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors that keep activations at scale, none of which has the value that a network starts with."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            state[key] = 0.5 + torch.rand(shape, generator=generator)
        else:
            fan_in = max(1, torch.tensor(shape[1:]).prod().item()) if len(shape) > 1 else 25
            state[key] = torch.randn(shape, generator=generator) / fan_in**0.5
    return state


def norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def openood_features(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """OpenOOD's forward pass up to the pooled feature, on its bare state dict and a normalised picture."""
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            key = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            out = F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(F.relu(norm(out, state, f"{key}.bn1")), state[f"{key}.conv2.weight"], padding=1)
            out = norm(out, state, f"{key}.bn2")
            if f"{key}.shortcut.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{key}.shortcut.0.weight"], stride=stride), state, f"{key}.shortcut.1")
            x = F.relu(out + x)
    return x.mean((2, 3))


def openood_logits(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return openood_features(state, x) @ state["fc.weight"].T + state["fc.bias"]


def godin_logits(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """OpenOOD's GodinNet: rows divided by their norm plus 0.0001, the quotient of h and g."""
    features = openood_features({key.removeprefix("backbone."): value for key, value in state.items()}, x)

    def unit(rows: torch.Tensor) -> torch.Tensor:
        return rows / (rows.norm(dim=1, keepdim=True) + 0.0001)

    g = torch.sigmoid(norm(features @ state["g.0.weight"].T + state["g.0.bias"], state, "g.1"))
    return unit(features) @ unit(state["h.h.weight"]).T / g


FORWARD = {"linear": (openood_shapes, openood_logits), "g_odin": (godin_shapes, godin_logits)}


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_key_names_are_openoods():
    shapes = openood_shapes(10)
    assert len(shapes) == 122
    learned = [shape for key, shape in shapes.items() if "running" not in key and "num_batches" not in key]
    assert sum(torch.Size(shape).numel() for shape in learned) == 11_173_962


@pytest.mark.parametrize("head", FORWARD)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_imported_checkpoint_gives_openoods_logits(head, prefix, images, tmp_path):
    shapes, logits = FORWARD[head]
    state = random_state(shapes(10))
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "best.ckpt")
    import_openood(tmp_path / "best.ckpt", tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD)
    classifier = load_classifier(tmp_path / "ours")
    architecture = classifier.architecture
    assert (architecture.head, architecture.width, architecture.image_shape) == (head, None, (3, 32, 32))
    assert architecture.class_names == tuple("0123456789")
    with torch.no_grad():
        expected = logits(state, normalised(images))
        assert expected.std() > 0.01
        torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", FORWARD)
def test_an_exported_checkpoint_is_openoods_state_dict_with_equal_logits(head, images, tmp_path):
    shapes, logits = FORWARD[head]
    torch.manual_seed(0)
    architecture = Architecture(
        network="resnet18_32px",
        width=64,
        head=head,
        class_names=tuple("abcdefg"),
        image_shape=(3, 32, 32),
        mean=MEAN,
        std=STD,
    )
    classifier = Classifier(architecture)
    classifier(images)
    save_classifier(tmp_path / "ours", architecture, classifier.state_dict())
    export_openood(tmp_path / "ours", tmp_path / "out" / "best.ckpt")
    state = torch.load(tmp_path / "out" / "best.ckpt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes(7)
    with torch.no_grad():
        ours = classifier.eval()(images)
        torch.testing.assert_close(ours, logits(state, normalised(images)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", FORWARD)
def test_there_and_back_is_the_same_bits(head, tmp_path):
    state = random_state(FORWARD[head][0](4))
    torch.save(state, tmp_path / "one.ckpt")
    names = ("a", "b", "c", "d")
    import_openood(
        tmp_path / "one.ckpt", tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD, class_names=names
    )
    classifier, name = export_openood(tmp_path / "ours", tmp_path / "two.ckpt")
    assert classifier.architecture.class_names == names
    assert name == ("ResNet18_32x32" if head == "linear" else "GodinNet around ResNet18_32x32")
    again = torch.load(tmp_path / "two.ckpt", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_torchvisions_network_is_openoods_of_224_px(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "best.ckpt")
    mean, std = NORMALISATIONS["imagenet"]
    import_openood(tmp_path / "best.ckpt", tmp_path / "ours", network="resnet18_224px", mean=mean, std=std)
    images = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        cropped = images[:, :, 16:240, 16:240]
        expected = theirs((cropped - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1))
        torch.testing.assert_close(load_classifier(tmp_path / "ours")(images), expected, rtol=1e-4, atol=1e-4)
    _, name = export_openood(tmp_path / "ours", tmp_path / "two.ckpt")
    assert name == "ResNet18_224x224"
    theirs.load_state_dict(torch.load(tmp_path / "two.ckpt", weights_only=True), strict=True)


@pytest.mark.parametrize(("network", "theirs"), [("resnet50_224px", "resnet50"), ("vit_b_16", "vit_b_16")])
def test_names_of_larger_networks_are_torchvisions_which_openood_derives_from(network, theirs):
    from torchvision.models import get_model

    with torch.device("meta"):
        expected = get_model(theirs, num_classes=3).state_dict()
        architecture = Architecture(
            network=network, class_names=tuple("abc"), image_shape=(3, 224, 224), mean=MEAN, std=STD
        )
        names = openood_names(Classifier(architecture))
    assert set(names.values()) == set(expected)


def changed(state: dict[str, torch.Tensor], **changes) -> dict[str, torch.Tensor]:
    return {key: value for key, value in {**state, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"conv1.weight": None}, "1 missing: conv1.weight"),
        ({"bn1.bias": None, "fc.bias": None}, "2 missing: bn1.bias ..."),
        ({"layer5.0": torch.zeros(1)}, "1 unexpected: layer5.0"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7)},
            "1 of another shape: conv1.weight, [64, 3, 7, 7] instead of [64, 3, 3, 3]",
        ),
        (
            {"fc.weight": None, "bn1.bias": torch.zeros(3), "x": torch.zeros(1)},
            "1 missing: fc.weight; 1 unexpected: x; 2 of another shape: bn1.bias, [3] instead of [64] ...",
        ),
    ],
)
def test_tensors_of_another_network_are_named(changes, differences, tmp_path):
    file = tmp_path / "best.ckpt"
    torch.save(changed(random_state(openood_shapes(10)), **changes), file)
    with pytest.raises(CheckpointError) as error:
        import_openood(file, tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD)
    assert str(error.value) == (
        f"{file} must hold OpenOOD's ResNet18_32x32, got other tensors ({differences}); "
        "give the --network that it was saved from."
    )
    assert not (tmp_path / "ours").exists()


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path):
    file, trap = tmp_path / "best.ckpt", tmp_path / "ran"
    torch.save({"fc.weight": Evil(trap)}, file)
    with pytest.raises(CheckpointError) as error:
        import_openood(file, tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{file} cannot be read as tensors by name (")
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"junk" * 40, pickle.dumps([1, 2])[:5]])
def test_a_broken_file_is_named(content, tmp_path):
    file = tmp_path / "best.ckpt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        import_openood(file, tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{file} cannot be read as tensors by name (")
    assert message.endswith("); give a file that `torch.save(network.state_dict(), ...)` wrote.")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no\.ckpt cannot be read as tensors by name \(.*No such file"):
        import_openood(tmp_path / "no.ckpt", tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("held", "what"),
    [
        ([torch.zeros(1)], "list"),
        ({}, "a dict of "),
        ({"epoch": 3, "state_dict": {"fc.weight": torch.zeros(1)}}, "a dict of 'epoch', 'state_dict'"),
    ],
)
def test_a_file_of_other_things_is_named(held, what, tmp_path):
    file = tmp_path / "best.ckpt"
    torch.save(held, file)
    with pytest.raises(CheckpointError) as error:
        import_openood(file, tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD)
    assert str(error.value) == (
        f"{file} must hold tensors by name and nothing else, got {what}; give a file that "
        "`torch.save(network.state_dict(), ...)` wrote."
    )


def test_a_checkpoint_is_not_overwritten_by_an_import(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "model.safetensors").touch()
    with pytest.raises(CheckpointError) as error:
        import_openood(tmp_path / "best.ckpt", tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD)
    assert str(error.value) == (f"{tmp_path / 'ours'} must be a new folder, got one with files in it; give another.")


def test_what_cannot_be_imported_is_named(tmp_path):
    file = tmp_path / "best.ckpt"
    torch.save(random_state(openood_shapes(10)), file)
    with pytest.raises(CheckpointError) as error:
        import_openood(file, tmp_path / "ours", network="small_cnn", mean=MEAN, std=STD)
    assert str(error.value) == (
        "OpenOOD must have the network, got 'small_cnn'; those of resnet18_32px, resnet18_64px, resnet18_224px, "
        "resnet50_224px, vit_b_16 can be exchanged."
    )
    with pytest.raises(ConfigError) as config_error:
        import_openood(file, tmp_path / "ours", network="resnet18_32px", mean=MEAN, std=STD, class_names=("a", "b"))
    assert str(config_error.value) == (f"--class-names must be as many as {file} has classes, 10, got 2; name all.")
    with pytest.raises(ConfigError) as config_error:
        import_openood(file, tmp_path / "ours", network="resnet18_32px", mean=(0.5,), std=(0.5, 0.5, 0.0))
    assert str(config_error.value) == (
        "--mean and --std must be three numbers each, std greater than 0, got ((0.5,), (0.5, 0.5, 0.0)); "
        "one per channel."
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"width": 8}, "(3, 32, 32) and of width 8"),
        ({"image_shape": (3, 28, 28)}, "(3, 28, 28) and of width 64"),
        ({"image_shape": (1, 32, 32), "mean": (0.5,), "std": (0.2,)}, "(1, 32, 32) and of width 64"),
    ],
)
def test_what_openood_has_no_network_for_is_not_exported(changes, what, tmp_path):
    fields = {
        "network": "resnet18_32px",
        "class_names": tuple("ab"),
        "image_shape": (3, 32, 32),
        "mean": MEAN,
        "std": STD,
    }
    architecture = Architecture(**fields | changes)
    save_classifier(tmp_path / "ours", architecture, Classifier(architecture).state_dict())
    with pytest.raises(CheckpointError) as error:
        export_openood(tmp_path / "ours", tmp_path / "best.ckpt")
    assert str(error.value) == (
        "OpenOOD's ResNet18_32x32 is for pictures of (3, 32, 32), and width 64; the classifier in "
        f"{tmp_path / 'ours'} is for {what}, so OpenOOD cannot take it."
    )
    assert not (tmp_path / "best.ckpt").exists()
