"""`openood:FILE[?network=NAME&normalisation=NAME]`: what OpenOOD's training wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sio_ray.classifier.exchange import COUNTERPARTS, NORMALISATIONS, import_openood
from sio_ray.classifier.foreign_weights import openood_names, read_state_dict
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import Head
from sio_ray.errors import CheckpointError, ConfigError, did_you_mean
from sio_ray.evaluation.foreign.found import (
    FIELD,
    Found,
    Normalisation,
    asked_normalisation,
    check_fit,
    no_normalisation,
    split_options,
)
from sio_ray.imageset import ImageSetInfo


def find_openood(reference: str, info: ImageSetInfo, *, download: bool) -> Found:
    """Open one of OpenOOD's checkpoints; nothing in the file is run.

    The network is told by the names of its tensors; where two have the same, by the size of the stored pictures. The
    normalisation is no part of the file: OpenOOD's for the benchmark that the ID set is of, if it says so.

    Args:
        reference: `openood:FILE?...`.
        info: of the ID set.
        download: nothing is.

    Raises:
        CheckpointError: the file is missing or broken, of no known network, or does not suit the ID set.
        ConfigError: an option that is unknown, or a normalisation that must be given.
    """
    asked, options = split_options(reference, ("network", "normalisation", "mean", "std"))
    file = Path(asked.removeprefix("openood:")).absolute()
    if not file.is_file():
        raise CheckpointError(f"{asked} names no file; give the path of what OpenOOD wrote, such as best.ckpt.")
    theirs = read_state_dict(file)
    head: Head = "g_odin" if "h.h.weight" in theirs else "linear"
    network = options.get("network") or _network_of(theirs, head, file, info)
    if network not in COUNTERPARTS:
        rule = f"a reference with network={'|'.join(COUNTERPARTS)}"
        raise ConfigError(FIELD, rule, reference, did_you_mean(network, COUNTERPARTS))
    last = _tensor_names(network, head)["head.weight" if head == "linear" else "head.h.weight"]
    if last in theirs:  # else the import says what differs
        image_shape = COUNTERPARTS[network].image_shape
        check_fit(f"openood:{file}", info, num_classes=len(theirs[last]), image_shape=image_shape)
    mean, std = asked_normalisation(reference, options) or _normalisation_of(reference, info)

    def load() -> Classifier:
        with tempfile.TemporaryDirectory() as folder:
            return import_openood(
                file, Path(folder, "ours"), network=network, mean=mean, std=std, class_names=info.class_names
            )

    return Found(f"openood:{file}{reference.removeprefix(asked)}", (file,), load, (network, mean, std))


def _network_of(theirs: Mapping[str, Tensor], head: Head, file: Path, info: ImageSetInfo) -> str:
    """Our network with tensors of the same names; of several, the one for the largest pictures that are stored."""
    same = {
        name: counterpart.image_shape[1]
        for name, counterpart in COUNTERPARTS.items()
        if set(_tensor_names(name, head).values()) == theirs.keys()
    }
    if not same:
        names = ", ".join(counterpart.name for counterpart in COUNTERPARTS.values())
        raise CheckpointError(
            f"openood:{file} must hold one of {names}, got tensors of other names, the first of which is "
            f"{next(iter(theirs))}; give features and logits as evaluate.outputs instead."
        )
    stored_px = min(info.height_px, info.width_px)
    fitting = [name for name, side_px in same.items() if side_px <= stored_px] or list(same)[:1]
    return max(fitting, key=same.__getitem__)


@cache
def _tensor_names(network: str, head: Head) -> dict[str, str]:
    image_shape = COUNTERPARTS[network].image_shape
    zeros, ones = (0.0,) * 3, (1.0,) * 3
    architecture = Architecture(
        network=network, head=head, class_names=("0",), image_shape=image_shape, mean=zeros, std=ones
    )
    with torch.device("meta"):
        return openood_names(Classifier(architecture))


def _normalisation_of(reference: str, info: ImageSetInfo) -> Normalisation:
    benchmark = str(info.provenance.get("benchmark") or info.provenance.get("source"))
    for name, normalisation in NORMALISATIONS.items():
        if benchmark == name or (name == "imagenet" and benchmark.startswith(name)):
            return normalisation
    raise no_normalisation(reference, "as the ID set is of no such benchmark")
