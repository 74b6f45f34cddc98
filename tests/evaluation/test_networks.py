"""Networks by reference: logits are the original network's, and one clear error for each that does not suit."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.ensemble import Ensemble
from sio_ray.classifier.exchange import NORMALISATIONS, export_openood
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import BatchError, CheckpointError, ConfigError, EvaluationError
from sio_ray.evaluation.foreign.torchvision import wrap_torchvision
from sio_ray.evaluation.networks import check_references, load_network
from sio_ray.imageset import ImageSetInfo
from sio_ray.ood.probe import StagedNetwork

CLASSES = tuple("abcdefg")


def info_of(side: int = 32, num_classes: int = 7, channels: int = 3, **provenance) -> ImageSetInfo:
    names = tuple(map(str, range(num_classes))) if num_classes != 7 else CLASSES
    return ImageSetInfo(
        class_names=names, height_px=side, width_px=side, channels=channels, provenance=provenance or {"source": "mine"}
    )


def architecture(network: str = "resnet18_32px", side: int = 32, **changes) -> Architecture:
    mean, std = NORMALISATIONS["cifar10"]
    fields = {
        "network": network,
        "class_names": CLASSES,
        "image_shape": (3, side, side),
        "mean": mean,
        "std": std,
    }
    return Architecture(**fields | changes)


def trained(architecture: Architecture, seed: int = 0) -> Classifier:
    """A classifier whose batch norms have seen something."""
    torch.manual_seed(seed)
    classifier = Classifier(architecture)
    classifier(torch.rand(4, *architecture.image_shape))
    return classifier.eval()


def saved(folder: Path, classifier: Classifier) -> str:
    save_classifier(folder, classifier.architecture, classifier.state_dict())
    return str(folder)


def pictures(side: int, channels: int = 3) -> Tensor:
    return torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(1))


def normalised(images: Tensor, name: str) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in NORMALISATIONS[name])
    return (images - mean) / std


def message(references: list[str] | str, info: ImageSetInfo, kind: type[Exception] = CheckpointError) -> str:
    """The error of the check, which is that of loading too."""
    references = [references] if isinstance(references, str) else references
    with pytest.raises(kind) as of_check:
        check_references(references, info)
    with pytest.raises(kind) as of_load:
        load_network(references, info)
    assert str(of_check.value) == str(of_load.value)
    assert "\n" not in str(of_check.value)
    return str(of_check.value)


# Checkpoints of ours.


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> tuple[str, Classifier]:
    small = trained(architecture("small_cnn", width=4))
    return saved(tmp_path_factory.mktemp("ours"), small), small


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_checkpoint_is_its_folder_or_a_file_in_it(ours, file):
    folder, classifier = ours
    network = load_network([str(Path(folder, file))], info_of())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = pictures(32)
    assert torch.equal(network.logits(network.features(images)), classifier(images))


def test_several_references_of_any_kind_are_an_ensemble(ours, tmp_path):
    folder, classifier = ours
    other = trained(architecture(), seed=1)
    export_openood(saved(tmp_path / "other", other), tmp_path / "best.ckpt")
    reference = f"openood:{tmp_path / 'best.ckpt'}?normalisation=cifar10"
    network = load_network([folder, reference], info_of())
    expected = Ensemble([classifier, other]).eval()
    images = pictures(32)
    torch.testing.assert_close(network.logits(network.features(images)), expected(images))
    assert network.num_features == classifier.num_features + 512
    with pytest.raises(EvaluationError, match="an ensemble of 2 has no linear last layer"):
        _ = network.last_layer


def test_what_is_checked_can_be_found_from_elsewhere_and_tells_when_it_changes(tmp_path, monkeypatch):
    classifier = trained(architecture("small_cnn", width=4))
    saved(tmp_path / "here" / "checkpoint", classifier)
    monkeypatch.chdir(tmp_path / "here")
    (checked,) = check_references(["checkpoint"], info_of())
    assert checked.reference == str(tmp_path / "here" / "checkpoint")
    assert check_references([checked.reference], info_of()) == (checked,)
    with torch.no_grad():
        classifier.head.bias += 1
    saved(tmp_path / "here" / "checkpoint", classifier)
    (changed,) = check_references(["checkpoint"], info_of())
    assert changed.reference == checked.reference
    assert changed.sha256 != checked.sha256
    save_classifier(
        tmp_path / "here" / "checkpoint",
        architecture("small_cnn", width=4, mean=(0.5,) * 3),
        classifier.state_dict(),
    )
    assert check_references(["checkpoint"], info_of())[0].sha256 != changed.sha256, "the normalisation counts too"


def test_a_checkpoint_of_other_classes_or_pictures_is_refused(ours):
    folder, _ = ours
    assert message(folder, info_of(num_classes=3)) == (
        f"the checkpoint {folder} knows classes {list(CLASSES)} of pictures (3, 32, 32), the ID set has "
        "['0', '1', '2'] of (3, 32, 32); evaluate it on the set that it was trained for."
    )
    assert "of pictures (3, 32, 32), the ID set has" in message(folder, info_of(side=28))


def test_references_to_nothing_are_named(tmp_path):
    missing = tmp_path / "none"
    assert message(str(missing), info_of()).startswith(f"{missing} is no checkpoint (architecture.json is missing)")
    assert message("torchvison:resnet50", info_of(), ConfigError) == (
        "evaluate.checkpoints must be a checkpoint's folder, or begin with openood:, torchvision:, timm:, got "
        "'torchvison:resnet50'; did you mean torchvision."
    )


# OpenOOD's.


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> tuple[Path, Classifier]:
    """What OpenOOD would have written, and the same as a classifier of ours."""
    folder = tmp_path_factory.mktemp("openood")
    classifier = trained(architecture())
    export_openood(saved(folder / "ours", classifier), folder / "best.ckpt")
    return folder / "best.ckpt", classifier


@pytest.mark.parametrize(
    ("provenance", "options"),
    [
        ({"source": "cifar10"}, ""),
        ({"source": "openood", "benchmark": "cifar10"}, ""),
        ({"source": "mine"}, "?normalisation=cifar10"),
        ({"source": "imagenet"}, "?normalisation=cifar10&network=resnet18_32px"),
        ({"source": "cifar100"}, "?mean=0.4914,0.4822,0.4465&std=0.2470,0.2435,0.2616"),
    ],
)
def test_openoods_checkpoint_gives_its_logits(best, provenance, options):
    file, classifier = best
    info = info_of(**provenance)
    reference = f"openood:{file}{options}"
    assert check_references([reference], info)[0].reference == reference
    network = load_network([reference], info)
    assert network.architecture.class_names == CLASSES
    assert torch.equal(network(pictures(32)), classifier(pictures(32)))


def test_one_file_read_in_two_ways_is_two_networks(best, tmp_path):
    file, _ = best

    def digest(reference):
        return check_references([reference], info_of(64))[0].sha256

    other = shutil.copy(file, tmp_path / "copy.ckpt")
    usual = digest(f"openood:{file}?normalisation=cifar10&network=resnet18_32px")
    assert digest(f"openood:{other}?mean=0.4914,0.4822,0.4465&std=0.2470,0.2435,0.2616&network=resnet18_32px") == usual
    for options in ("normalisation=cifar100&network=resnet18_32px", "normalisation=cifar10&network=resnet18_64px"):
        assert digest(f"openood:{file}?{options}") != usual


def test_a_normalisation_that_nothing_tells_must_be_given(best):
    file, _ = best
    assert message(f"openood:{file}", info_of(), ConfigError) == (
        "evaluate.checkpoints must be a reference with ?normalisation=cifar10|cifar100|imagenet, or "
        "?mean=R,G,B&std=R,G,B, as the ID set is of no such benchmark, "
        f"got 'openood:{file}'; give what the network was trained with."
    )
    of_imagenet = load_network([f"openood:{file}"], info_of(source="openood", benchmark="imagenet200"))
    assert of_imagenet.architecture.mean == NORMALISATIONS["imagenet"][0]


@pytest.mark.parametrize(
    ("stored_px", "network", "side_px"),
    [(32, "resnet18_32px", 32), (63, "resnet18_32px", 32), (64, "resnet18_64px", 64), (224, "resnet18_64px", 64)],
)
def test_of_networks_with_the_same_tensors_the_stored_pictures_decide(best, stored_px, network, side_px):
    file, _ = best
    found = load_network([f"openood:{file}?normalisation=cifar10"], info_of(stored_px)).architecture
    assert (found.network, found.image_shape) == (network, (3, side_px, side_px))
    asked = load_network([f"openood:{file}?normalisation=cifar10&network=resnet18_32px"], info_of(stored_px))
    assert asked.architecture.network == "resnet18_32px"


def test_a_godin_net_is_told_by_its_tensors(tmp_path):
    classifier = trained(architecture(head="g_odin"))
    export_openood(saved(tmp_path / "ours", classifier), tmp_path / "best.ckpt")
    network = load_network([f"openood:{tmp_path / 'best.ckpt'}"], info_of(source="cifar10"))
    assert torch.equal(network(pictures(32)), classifier(pictures(32)))


def test_a_network_of_224_px_is_told_by_its_tensors(tmp_path):
    theirs = models.resnet18(num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "best.ckpt")
    reference = f"openood:{tmp_path / 'best.ckpt'}?normalisation=imagenet"
    network = load_network([reference], info_of(256))
    assert network.architecture.network == "resnet18_224px"
    images = pictures(256)
    torch.testing.assert_close(network(images), theirs(normalised(images[:, :, 16:240, 16:240], "imagenet")))
    assert message(reference, info_of(64)) == (
        f"openood:{tmp_path / 'best.ckpt'} takes pictures of 224x224 px and 3 channels, the ID set's are of 64x64 px "
        "and 3; prepare them as it was trained (prepare.image_size_px)."
    )


def test_openoods_files_that_do_not_suit_are_refused(best, tmp_path):
    file, classifier = best
    assert message(f"openood:{file}", info_of(num_classes=10, source="cifar10")) == (
        f"openood:{file} makes 7 logits, the ID set has 10 classes; evaluate it on the set that it was trained for."
    )
    assert "and 3 channels, the ID set's are of 32x32 px and 1;" in message(f"openood:{file}", info_of(channels=1))
    assert message(f"openood:{tmp_path}/none.ckpt", info_of()) == (
        f"openood:{tmp_path}/none.ckpt names no file; give the path of what OpenOOD wrote, such as best.ckpt."
    )
    torch.save(models.resnet34(num_classes=7).state_dict(), tmp_path / "other.ckpt")
    assert message(f"openood:{tmp_path}/other.ckpt", info_of()) == (
        f"openood:{tmp_path}/other.ckpt must hold one of ResNet18_32x32, ResNet18_64x64, ResNet18_224x224, ResNet50, "
        "ViT_B_16, got tensors of other names, the first of which is conv1.weight; give features and logits as "
        "evaluate.outputs instead."
    )
    torch.save({"model": classifier}, tmp_path / "pickle.ckpt")
    assert "pickle.ckpt cannot be read as tensors by name (" in message(f"openood:{tmp_path}/pickle.ckpt", info_of())
    with pytest.raises(CheckpointError, match=r"must hold OpenOOD's ResNet18_224x224, got other tensors \("):
        load_network([f"openood:{file}?network=resnet18_224px&normalisation=imagenet"], info_of(256))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("?netwrok=vit_b_16", "with no options but network, normalisation, mean, std, got"),
        ("?normalisation=cifar11", "with ?normalisation=cifar10|cifar100|imagenet, or ?mean=R,G,B&std=R,G,B"),
        ("?normalisation=cifar10&mean=1,1,1&std=1,1,1", "with ?normalisation="),
        ("?mean=1,1,1", "with ?normalisation="),
        ("?mean=1,1,1&std=1,1,0", "with ?normalisation=cifar10|cifar100|imagenet, or ?mean=R,G,B&std=R,G,B, each std"),
        ("?mean=1,1&std=1,1", "with ?normalisation="),
        ("?network=small_cnn", "with network=resnet18_32px|"),
        ("?network=", "with ?OPTION=VALUE&OPTION=VALUE, each once"),
        ("?normalisation=cifar10&normalisation=cifar100", "with ?OPTION=VALUE&OPTION=VALUE, each once"),
        ("?normalisation", "with ?OPTION=VALUE&OPTION=VALUE, each once"),
    ],
)
def test_options_are_checked(best, options, rule):
    reference = f"openood:{best[0]}{options}"
    said = message(reference, info_of(), ConfigError)
    assert said.startswith(f"evaluate.checkpoints must be a reference {rule}")
    assert f"got {reference!r}; " in said


# torchvision's.


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty folder where torch.hub keeps files, and no network."""

    def no_network(*args, **kwargs):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(hub: Path, name: str) -> nn.Module:
    """Random weights where torchvision's would lie."""
    torch.manual_seed(3)
    network = models.get_model(name).eval()
    torch.save(network.state_dict(), hub / Path(next(iter(models.get_model_weights(name))).url).name)
    return network


@pytest.mark.parametrize(
    ("name", "is_ours", "num_maps"), [("resnet18", True, 5), ("resnet34", False, 5), ("shufflenet_v2_x0_5", False, 5)]
)
def test_torchvisions_network_gives_its_logits(hub, name, is_ours, num_maps):
    theirs, info = publish(hub, name), info_of(256, 1000)
    (checked,) = check_references([f"torchvision:{name}"], info)
    assert checked.reference == f"torchvision:{name}:IMAGENET1K_V1"
    network = load_network([checked.reference], info)
    assert isinstance(network, Classifier) == is_ours
    images = pictures(256)
    expected = theirs(normalised(images[:, :, 16:240, 16:240], "imagenet"))
    torch.testing.assert_close(network.logits(network.features(images)), expected, rtol=1e-4, atol=1e-4)
    layer = network.last_layer
    torch.testing.assert_close(network.features(images) @ layer.weight.T + layer.bias, expected, rtol=1e-4, atol=1e-4)
    assert isinstance(network, StagedNetwork)
    assert len(network.feature_maps(images)) == num_maps
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_that_are_not_here_are_fetched_only_if_asked(hub):
    url = models.ResNet34_Weights.IMAGENET1K_V1.url
    file = hub / Path(url).name
    assert message("torchvision:resnet34", info_of(224, 1000)) == (
        f"the weights of torchvision:resnet34:IMAGENET1K_V1 must be at {file}, on every node, and are not; set "
        f"evaluate.download=true, or run `curl --create-dirs -Lo {file} {url}`."
    )
    with pytest.raises(CheckpointError) as error:
        check_references(["torchvision:resnet34"], info_of(224, 1000), download=True)
    assert str(error.value) == (
        "the weights of torchvision:resnet34:IMAGENET1K_V1 cannot be downloaded (<urlopen error [Errno -2] Name or "
        f"service not known>); run `curl --create-dirs -Lo {file} {url}` where there is a network."
    )


def test_what_is_asked_for_is_downloaded_once_to_its_place(hub, monkeypatch):
    torch.manual_seed(0)
    state = models.get_model("shufflenet_v2_x0_5").state_dict()
    calls = []

    def download(url, file, *args, **kwargs):
        calls.append(url)
        torch.save(state, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        (checked,) = check_references(["torchvision:shufflenet_v2_x0_5"], info_of(224, 1000), download=True)
    assert calls == [models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url]
    network = load_network([checked.reference], info_of(224, 1000))
    assert torch.equal(network.last_layer.weight, state["fc.weight"])


def test_torchvisions_names_and_sizes_are_checked(hub):
    assert message("torchvision:resnet51", info_of(), ConfigError) == (
        "evaluate.checkpoints must be torchvision:NAME of one of its classification networks, got "
        "'torchvision:resnet51'; did you mean resnet50."
    )
    assert message("torchvision:resnet50:IMAGENET1K", info_of(), ConfigError) == (
        "evaluate.checkpoints must be torchvision:resnet50:WEIGHTS with one of IMAGENET1K_V1, IMAGENET1K_V2, got "
        "'torchvision:resnet50:IMAGENET1K'; choose from these."
    )
    assert message("torchvision:resnet50", info_of(224, 10)) == (
        "torchvision:resnet50:IMAGENET1K_V1 makes 1000 logits, the ID set has 10 classes; evaluate it on the set that "
        "it was trained for."
    )
    assert "takes pictures of 224x224 px and 3 channels, the ID set's are of 223x223 px and 3;" in message(
        "torchvision:resnet50:IMAGENET1K_V2", info_of(223, 1000)
    )


def test_a_file_that_is_more_than_tensors_is_not_run(hub):
    file = hub / Path(models.ResNet34_Weights.IMAGENET1K_V1.url).name
    torch.save(models.resnet34(), file)
    with pytest.raises(CheckpointError, match=rf"{file.name} cannot be read as tensors by name \("):
        load_network(["torchvision:resnet34"], info_of(224, 1000))


# Any network.

#: Name in torchvision to pictures' side, number of features, and sides of the maps.
WRAPPED = {
    "densenet121": (64, 1024, [32, 16, 8, 4, 2]),
    "mobilenet_v3_small": (64, 1024, [32, 16, 8, 4, 2]),
    "efficientnet_b0": (64, 1280, [32, 16, 8, 4, 2]),
    "vgg11": (32, 4096, [32, 16, 8, 4, 2]),
    "googlenet": (64, 1024, [32, 16, 8, 4, 2]),
    "swin_t": (64, 768, None),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_network_is_divided_before_its_last_linear_layer(name):
    side, num_features, sides = WRAPPED[name]
    torch.manual_seed(0)
    theirs = models.get_model(name, num_classes=7, **({"init_weights": False} if name == "googlenet" else {})).eval()
    images = pictures(side)
    with torch.no_grad():
        expected = theirs(normalised(images, "cifar10"))
    network = wrap_torchvision(theirs, architecture(f"torchvision:{name}", side))
    assert network.num_features == num_features
    assert network.features(images).shape == (3, num_features)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    if sides is None:
        assert not isinstance(network, StagedNetwork), "channels stand last there"
    else:
        assert [each.shape[2:] for each in network.feature_maps(images)] == [(each, each) for each in sides]
    larger = torch.nn.functional.pad(images, (3, 3, 3, 3), value=7)
    assert torch.equal(network(larger), network(images)), "the centre alone is seen"


def test_maps_can_be_differentiated_and_lead_to_no_features():
    network = wrap_torchvision(models.resnet34(num_classes=7), architecture("torchvision:resnet34", 64))
    images = pictures(64).requires_grad_()
    sum(each.sum() for each in network.feature_maps(images)).backward()
    assert images.grad.abs().sum() > 0
    assert not network.resumable
    with pytest.raises(EvaluationError, match="features of torchvision:resnet34 cannot be made of its feature maps"):
        network.features_from(network.feature_maps(images)[-1], 0)
    with pytest.raises(BatchError, match=r"pictures must be of 64x64 px or more, got 32x64; give those that torchvis"):
        network.features(images[..., :32])


def test_a_stage_is_what_comes_last_at_its_resolution():
    theirs = models.resnet34(num_classes=7).eval()
    with torch.no_grad():
        x = theirs.relu(theirs.bn1(theirs.conv1(normalised(pictures(64), "cifar10"))))
        expected, y = [x], theirs.maxpool(x)
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            expected.append(y := layer(y))
    network = wrap_torchvision(theirs, architecture("torchvision:resnet34", 64))
    torch.testing.assert_close(network.feature_maps(pictures(64)), expected)


class Unlike(nn.Module):
    """A network whose last linear layer is not what makes its logits."""

    def __init__(self, last: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc, self.after = last, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.fc(self.body(x)))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Unlike(nn.Linear(12, 7), nn.Softmax(1)), "its last linear layer does not give its logits"),
        (Unlike(nn.Linear(12, 9), nn.Linear(9, 7)).requires_grad_(False), None),
        (Unlike(nn.Identity(), nn.Identity()), "its last layer is NoneType"),
        (Unlike(nn.Unflatten(1, (4, 3)), nn.Linear(3, 7)), r"its last layer reads \(4, 3\) per picture"),
        (models.squeezenet1_1(num_classes=7), "its last layer is NoneType"),
    ],
)
def test_a_network_that_is_not_features_and_a_last_layer_is_refused(model, reason):
    of = architecture("theirs", 64)
    if reason is None:
        assert wrap_torchvision(model, of).num_features == 9
        return
    with pytest.raises(
        CheckpointError, match=rf"theirs must be features and one linear last layer, got another network \({reason}\);"
    ):
        wrap_torchvision(model, of)


def test_a_last_layer_without_a_bias_has_one_of_zero():
    model = Unlike(nn.Linear(12, 7, bias=False), nn.Identity())
    network = wrap_torchvision(model, architecture("theirs", 64))
    assert torch.equal(network.last_layer.bias, torch.zeros(7))


# timm's.


@pytest.fixture
def timm(monkeypatch):
    return pytest.importorskip("timm")


def timm_weights(timm, file: Path, name: str = "test_resnet", num_classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=num_classes).eval()
    if file.suffix == ".safetensors":
        save_file(network.state_dict(), file)
    else:
        torch.save(network.state_dict(), file)
    return network


@pytest.mark.parametrize(
    ("name", "file", "side", "seen_px", "num_maps"),
    [
        ("test_resnet", "w.safetensors", 48, 48, 5),
        ("test_resnet", "w.pth", 200, 160, 5),
        ("test_vit", "w.safetensors", 160, 160, 6),
        ("test_efficientnet", "w.safetensors", 64, 64, 5),
        ("test_convnext", "w.safetensors", 64, 64, 4),
    ],
)
def test_a_file_of_timms_network_gives_its_logits(timm, tmp_path, name, file, side, seen_px, num_maps):
    theirs = timm_weights(timm, tmp_path / file, name)
    reference = f"timm:{name}@{tmp_path / file}?normalisation=cifar100"
    (checked,) = check_references([reference], info_of(side))
    assert checked.reference == reference
    network = load_network([reference], info_of(side))
    images, edge = pictures(side), (side - seen_px) // 2
    with torch.no_grad():
        seen = images[:, :, edge : edge + seen_px, edge : edge + seen_px]
        expected = theirs(normalised(seen, "cifar100"))
    torch.testing.assert_close(network.logits(network.features(images)), expected)
    layer = network.last_layer
    torch.testing.assert_close(network.features(images) @ layer.weight.T + layer.bias, expected)
    assert len(network.feature_maps(images)) == num_maps


def test_timms_own_normalisation_is_the_default(timm, tmp_path):
    timm_weights(timm, tmp_path / "w.safetensors")
    reference = f"timm:test_resnet@{tmp_path}/w.safetensors"
    network = load_network([reference], info_of(64))
    assert network.architecture.mean == timm.get_pretrained_cfg("test_resnet").mean
    usual, other = (
        check_references([each], info_of(64))[0].sha256 for each in (reference, f"{reference}?normalisation=cifar100")
    )
    assert usual != other, "outputs of the one are not those of the other"


def test_published_weights_come_from_the_hubs_cache_or_are_fetched_if_asked(timm, tmp_path, monkeypatch):
    settings, source = timm.get_pretrained_cfg("test_resnet"), "sio_ray.evaluation.foreign.timm"
    cached = []
    monkeypatch.setattr(f"{source}.try_to_load_from_cache", lambda *_: cached[0] if cached else None)
    info = info_of(256, settings.num_classes)
    repository = settings.hf_hub_id
    assert message("timm:test_resnet", info) == (
        "the weights of timm:test_resnet must be in the hub's cache, on every node, and are not; set "
        f"evaluate.download=true, run `hf download {repository} model.safetensors`, or name the file: "
        "timm:test_resnet@FILE."
    )
    with pytest.raises(CheckpointError, match=r"the weights of timm:test_resnet cannot be downloaded \("):
        check_references(["timm:test_resnet"], info, download=True)
    theirs = timm_weights(timm, tmp_path / "model.safetensors", num_classes=settings.num_classes)
    monkeypatch.setattr(f"{source}.hf_hub_download", lambda *_: str(tmp_path / "model.safetensors"))
    (checked,) = check_references(["timm:test_resnet"], info, download=True)
    cached.append(str(tmp_path / "model.safetensors"))
    assert check_references(["timm:test_resnet"], info) == (checked,)
    network = load_network([checked.reference], info)
    images = pictures(256)
    side = settings.input_size[1]
    edge = (256 - side) // 2
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (settings.mean, settings.std))
    with torch.no_grad():
        expected = theirs((images[:, :, edge : edge + side, edge : edge + side] - mean) / std)
        torch.testing.assert_close(network(images), expected)
    Path(cached[0]).write_bytes(b"<html>" * 20)
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read as timm:test_resnet \("):
        load_network(["timm:test_resnet"], info)


def test_what_timm_cannot_give_is_said(timm, tmp_path):
    file = tmp_path / "w.safetensors"
    timm_weights(timm, file)
    assert message("timm:resnet_18", info_of(), ConfigError) == (
        "evaluate.checkpoints must be timm:NAME of one of timm's networks, got 'timm:resnet_18'; did you mean resnet18."
    )
    assert "got 'timm:resnet18.none'; did you mean resnet18" in message("timm:resnet18.none", info_of(), ConfigError)
    assert message(f"timm:test_resnet@{file}", info_of(64, 10)) == (
        f"timm:test_resnet@{file} makes 7 logits, the ID set has 10 classes; evaluate it on the set that it was "
        "trained for."
    )
    assert message(f"timm:test_resnet@{tmp_path}/none", info_of(64)) == (
        f"timm:NAME@{tmp_path}/none names no file; give the path of the network's weights."
    )
    assert "takes pictures of 160x160 px" in message(f"timm:test_vit@{file}", info_of(64))
    assert message("timm:mixer_s32_224", info_of(224, 1000)) == (
        "timm has no weights for mixer_s32_224; name a file of your own: timm:mixer_s32_224@FILE."
    )
    with pytest.raises(CheckpointError, match=r"test_efficientnet@.* must hold that network, got other tensors \("):
        load_network([f"timm:test_efficientnet@{file}"], info_of(64))
    file.write_bytes(b"<html>")
    assert f"{file} cannot be read (" in message(f"timm:test_resnet@{file}", info_of(64))


def test_a_network_of_timm_with_two_last_layers_is_refused(timm, tmp_path):
    file = tmp_path / "w.safetensors"
    timm_weights(timm, file, "deit_tiny_distilled_patch16_224")
    with pytest.raises(CheckpointError, match=r"got another network \(its last layer is tuple\); compute features"):
        load_network([f"timm:deit_tiny_distilled_patch16_224@{file}"], info_of(224))


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert message("timm:resnet18", info_of(), ConfigError) == (
        "evaluate.checkpoints must be of another kind while timm is not installed, got 'timm:resnet18'; run "
        "`pip install 'sio_ray[timm]'`, on every node."
    )
