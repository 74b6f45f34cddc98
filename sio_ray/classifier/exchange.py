"""Checkpoints from and to OpenOOD: the same tensors under other names.

OpenOOD normalises pictures before the network sees them, our classifier does it itself: mean and standard deviation are
no part of OpenOOD's file. Who imports names them, who exports gives them to OpenOOD's transform; then logits are equal.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from sio_ray.classifier.checkpoint import different_tensors, load_classifier, save_classifier
from sio_ray.classifier.foreign_weights import openood_names, read_state_dict
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import NETWORKS
from sio_ray.errors import CheckpointError, ConfigError
from sio_ray.imageset.storage import Folder


@dataclass(frozen=True)
class Counterpart:
    """OpenOOD's class for one of our networks, and the pictures that it takes."""

    name: str
    image_shape: tuple[int, int, int]


#: Our network to OpenOOD's (v1.5).
COUNTERPARTS = {
    "resnet18_32px": Counterpart("ResNet18_32x32", (3, 32, 32)),
    "resnet18_64px": Counterpart("ResNet18_64x64", (3, 64, 64)),
    "resnet18_224px": Counterpart("ResNet18_224x224", (3, 224, 224)),
    "resnet50_224px": Counterpart("ResNet50", (3, 224, 224)),
    "vit_b_16": Counterpart("ViT_B_16", (3, 224, 224)),
}

#: Mean and standard deviation that OpenOOD's transforms use for a training set.
NORMALISATIONS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def export_openood(checkpoint: str | Path, file: Path) -> tuple[Classifier, str]:
    """Write a checkpoint as a state dict that OpenOOD's own class loads strictly, with equal logits.

    A G-ODIN head makes it one of OpenOOD's `GodinNet` around that class.

    Returns:
        The classifier, and the name of OpenOOD's class.

    Raises:
        CheckpointError: it cannot be loaded, or OpenOOD has no such network.
    """
    classifier = load_classifier(checkpoint)
    architecture = classifier.architecture
    counterpart = _counterpart(architecture.network)
    default = type(classifier.network).default_width
    if architecture.image_shape != counterpart.image_shape or architecture.width not in (None, default):
        width = "" if default is None else f", and width {default}"
        raise CheckpointError(
            f"OpenOOD's {counterpart.name} is for pictures of {counterpart.image_shape}{width}; the classifier in "
            f"{checkpoint} is for {architecture.image_shape}"
            f"{'' if default is None else f' and of width {architecture.width or default}'}, so OpenOOD cannot take it."
        )
    names = openood_names(classifier)
    buffer = io.BytesIO()
    torch.save({names[name]: value for name, value in classifier.state_dict().items()}, buffer)
    Folder(str(file.parent)).write_bytes(file.name, buffer.getvalue())
    return classifier, counterpart.name if architecture.head == "linear" else f"GodinNet around {counterpart.name}"


def import_openood(
    file: Path,
    folder: Path,
    *,
    network: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    class_names: tuple[str, ...] | None = None,
) -> Classifier:
    """Write a checkpoint of ours from a state dict of OpenOOD's; nothing in the file is run.

    Args:
        file: what OpenOOD's training wrote, of one of the classes in `COUNTERPARTS` or of a `GodinNet` around it.
        folder: of the new checkpoint; holds nothing yet.
        network: our name of the network.
        mean: of each channel, that OpenOOD's transform subtracts.
        std: of each channel, that it divides by.
        class_names: as many as the file has classes; 0, 1, ... if not given.

    Returns:
        What was written.

    Raises:
        CheckpointError: the file is broken or holds another network, or the folder is in use.
        ConfigError: another number of names than of classes, or no normalisation for three channels.
    """
    counterpart = _counterpart(network)
    if any(folder.glob("*")):
        raise CheckpointError(f"{folder} must be a new folder, got one with files in it; give another.")
    theirs = read_state_dict(file)
    is_godin = "h.h.weight" in theirs
    last = "h.h.weight" if is_godin else f"{NETWORKS[network].last_layer_name}.weight"
    # Without it the number of classes is unknown, and what differs is said below.
    num_classes = len(theirs[last]) if last in theirs else len(class_names or "?")
    names = class_names or tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise ConfigError("--class-names", f"as many as {file} has classes, {num_classes}", len(names), "name all")
    if not len(mean) == len(std) == 3 or not min(std) > 0:
        raise ConfigError("--mean and --std", "three numbers each, std greater than 0", (mean, std), "one per channel")
    architecture = Architecture(
        network=network,
        head="g_odin" if is_godin else "linear",
        class_names=names,
        image_shape=counterpart.image_shape,
        mean=mean,
        std=std,
    )
    classifier = Classifier(architecture)
    foreign = openood_names(classifier)
    expected = {foreign[name]: value for name, value in classifier.state_dict().items()}
    if differences := different_tensors(expected, theirs):
        raise CheckpointError(
            f"{file} must hold OpenOOD's {counterpart.name}, got other tensors ({differences}); "
            "give the --network that it was saved from."
        )
    classifier.load_state_dict({name: theirs[foreign[name]] for name in foreign})
    save_classifier(folder, architecture, classifier.state_dict(), training={"imported_from": file.name})
    return classifier.eval()


def _counterpart(network: str) -> Counterpart:
    if network not in COUNTERPARTS:
        raise CheckpointError(
            f"OpenOOD must have the network, got {network!r}; those of {', '.join(COUNTERPARTS)} can be exchanged."
        )
    return COUNTERPARTS[network]
