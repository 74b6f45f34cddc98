"""Classifier checkpoints: weights as safetensors, architecture as JSON; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sio_ray.classifier.ensemble import Ensemble
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import CheckpointError
from sio_ray.reading import parse_json_object, reason_of

_WEIGHTS = "model.safetensors"
_ARCHITECTURE = "architecture.json"

#: Key of the JSON beside the fields of `Architecture`: where the weights come from, for people.
_TRAINING = "training"

#: Until the head became a module of its own, it was stored as the network's `fc`.
_OLD_HEAD, _HEAD = "network.fc.", "head."


def save_classifier(
    folder: Path, architecture: Architecture, weights: Mapping[str, Tensor], *, training: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint folder.

    Args:
        folder: is made if needed.
        architecture: what the weights belong to.
        weights: the state dict of a `Classifier`.
        training: where they come from, such as config, seed, arm and versions, as JSON values; for people, not read
            when the checkpoint is loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{_WEIGHTS}.part"
    save_file({name: value.cpu().contiguous() for name, value in weights.items()}, part)
    part.replace(folder / _WEIGHTS)
    described = architecture.model_dump(mode="json") | ({_TRAINING: training} if training else {})
    (folder / _ARCHITECTURE).write_text(json.dumps(described, indent=1) + "\n")


def load_classifier(folder: str | Path) -> Classifier:
    """Load a checkpoint, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: it is missing, broken, or its weights are of another architecture than its JSON says.
    """
    folder = Path(folder)
    architecture, _ = read_architecture(folder)
    try:
        weights = load_file(folder / _WEIGHTS)
        with torch.device("meta"):  # without memory: what the JSON says may be of any size
            expected = Classifier(architecture).state_dict()
    except (OSError, ValueError, TypeError, RuntimeError, OverflowError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    weights = {name.replace(_OLD_HEAD, _HEAD, 1): value for name, value in weights.items()}
    if differences := different_tensors(expected, weights):
        width = "" if architecture.width is None else f" of width {architecture.width}"
        raise CheckpointError(
            f"the weights in {folder} are of another architecture than {architecture.network}{width} ({differences}); "
            f"give the {_ARCHITECTURE} that belongs to them."
        )
    classifier = Classifier(architecture)
    classifier.load_state_dict(weights)
    return classifier.eval()


def load_checkpoints(folders: Sequence[str | Path]) -> Classifier | Ensemble:
    """Load one checkpoint as a classifier, or several as an ensemble, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: one of them cannot be loaded, or they are for different classes or pictures.
    """
    members = [load_classifier(folder) for folder in folders]
    return members[0] if len(members) == 1 else Ensemble(members).eval()


def read_architecture(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """What a checkpoint's JSON says: the architecture, and where the weights come from (empty if it does not say).

    Raises:
        CheckpointError: a file is missing, or the JSON is broken.
    """
    for name in (_ARCHITECTURE, _WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} is no checkpoint ({name} is missing); run `sio-ray train`, or check the path."
            )
    try:
        described = parse_json_object((folder / _ARCHITECTURE).read_bytes())
        training = described.pop(_TRAINING, None)
        if not isinstance(training, dict | None):
            raise ValueError(f"its {_TRAINING} is no object")
        return Architecture.model_validate(described), training or {}
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def different_tensors(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str | None:
    """What keeps a state dict from being loaded, in words: the first tensor of each kind; None if nothing does."""
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    reshaped = [
        f"{name}, {list(got[name].shape)} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in got and got[name].shape != value.shape
    ]
    kinds = ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
    parts = [f"{len(names)} {kind}: {names[0]}{' ...' * (len(names) > 1)}" for names, kind in kinds if names]
    return "; ".join(parts) or None


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = ": ".join([_ARCHITECTURE, *map(str, first["loc"][:1]), first["msg"]])
    else:
        reason = reason_of(error)
    return CheckpointError(f"the checkpoint {folder} cannot be read ({reason}); delete it and train again.")
