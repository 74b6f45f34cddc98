"""Networks by reference: folders of checkpoints, and what OpenOOD, torchvision and timm trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sio_ray.classifier.checkpoint import load_classifier, read_architecture
from sio_ray.classifier.ensemble import Ensemble
from sio_ray.classifier.model import Classifier
from sio_ray.errors import CheckpointError, ConfigError, did_you_mean
from sio_ray.evaluation.foreign import SOURCES, Found
from sio_ray.evaluation.foreign.found import FIELD
from sio_ray.evaluation.references import SOURCE_NAMES
from sio_ray.imageset import ImageSetInfo
from sio_ray.ood.probe import ScoredNetwork


@dataclass(frozen=True)
class CheckedReference:
    """A reference that suits the ID set.

    Attributes:
        reference: the same with an absolute path, which workers find from their own working directory.
        sha256: of its files, and of how they are read: networks of one digest have the same outputs.
    """

    reference: str
    sha256: str


def load_network(references: Sequence[str], info: ImageSetInfo, *, download: bool = False) -> ScoredNetwork:
    """Load a network, or several as a deep ensemble, in evaluation mode, without gradients, on the CPU.

    Args:
        references: each a folder or file of a checkpoint; `openood:FILE[?network=NAME&normalisation=NAME]`;
            `torchvision:NAME[:WEIGHTS]`; `timm:NAME[@FILE][?normalisation=NAME]`.
        info: of the ID set; logit c is its class c.
        download: fetch published weights that this node does not have.

    Raises:
        CheckpointError: one cannot be loaded, or is not for the classes or pictures of the ID set.
        ConfigError: a reference to nothing that is known.
    """
    members = [_find(reference, info, download=download).load() for reference in references]
    # An ensemble asks of its members what both kinds have.
    network = members[0] if len(members) == 1 else Ensemble(cast(list[Classifier], members))
    return network.eval().requires_grad_(False)


def check_references(
    references: Sequence[str], info: ImageSetInfo, *, download: bool = False
) -> tuple[CheckedReference, ...]:
    """Find out before any work whether `load_network` will find all it needs; it builds no network.

    Args:
        references: as for `load_network`.
        info: of the ID set.
        download: fetch published weights that are not here yet; without it, nothing is downloaded.

    Raises:
        CheckpointError: a file is missing or broken, or is not for the classes or pictures of the ID set.
        ConfigError: a reference to nothing that is known, or to a package that is not installed.
    """
    found = [_find(reference, info, download=download) for reference in references]
    return tuple(CheckedReference(one.reference, _sha256(one)) for one in found)


def _find(reference: str, info: ImageSetInfo, *, download: bool) -> Found:
    prefix, colon, _ = reference.partition(":")
    if colon and prefix in SOURCE_NAMES:
        return SOURCES[prefix](reference, info, download=download)
    path = Path(reference).absolute()
    if colon and not path.exists():
        rule = f"a checkpoint's folder, or begin with {', '.join(f'{name}:' for name in SOURCE_NAMES)}"
        raise ConfigError(FIELD, rule, reference, did_you_mean(prefix, SOURCE_NAMES, "check the path"))
    folder = path.parent if path.is_file() else path
    architecture, _ = read_architecture(folder)
    if not architecture.suits(info.class_names, info.image_shape):
        raise CheckpointError(
            f"the checkpoint {folder} knows classes {list(architecture.class_names)} of pictures "
            f"{architecture.image_shape}, the ID set has {list(info.class_names)} of {info.image_shape}; "
            "evaluate it on the set that it was trained for."
        )
    files = sorted((*folder.glob("*.json"), *folder.glob("*.safetensors")))
    return Found(str(folder), tuple(files), lambda: load_classifier(folder))


def _sha256(found: Found) -> str:
    parts = [json.dumps(found.settings)]
    for file in found.files:
        with file.open("rb") as stream:
            parts.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
