"""Weights of torchvision and OpenOOD: what their tensors are called, and their pickled files, read safely."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sio_ray.errors import CheckpointError
from sio_ray.reading import reason_of

if TYPE_CHECKING:
    from sio_ray.classifier.model import Classifier


def torchvision_names(classifier: Classifier) -> dict[str, str]:
    """Name of a tensor in a classifier's state to its name in torchvision; a head that is not linear has none there."""
    prefixes = {"network.": ""}
    if classifier.architecture.head == "linear":
        prefixes["head."] = f"{classifier.network.last_layer_name}."
    return _renamed(classifier, prefixes)


def openood_names(classifier: Classifier) -> dict[str, str]:
    """Name of every tensor in a classifier's state to its name in OpenOOD; a G-ODIN head makes it a `GodinNet`."""
    if classifier.architecture.head == "linear":
        return torchvision_names(classifier)
    return _renamed(classifier, {"network.": "backbone.", "head.h.": "h.h.", "head.g.": "g."})


def _renamed(classifier: Classifier, prefixes: dict[str, str]) -> dict[str, str]:
    return {
        name: theirs + name.removeprefix(ours)
        for name in classifier.state_dict()
        for ours, theirs in prefixes.items()
        if name.startswith(ours)
    }


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read a file of tensors by name that `torch.save` wrote; nothing in it is run. A `module.` prefix is dropped.

    Raises:
        CheckpointError: it is missing, broken, or holds anything else.
    """
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make the unpickler raise anything
        reason = reason_of(error)
        raise CheckpointError(
            f"{file} cannot be read as tensors by name ({reason}); give a file that "
            "`torch.save(network.state_dict(), ...)` wrote."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        held = f"a dict of {', '.join(map(repr, list(state)[:5]))}" if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(
            f"{file} must hold tensors by name and nothing else, got {held}; give a file that "
            "`torch.save(network.state_dict(), ...)` wrote."
        )
    return {str(name).removeprefix("module."): value for name, value in state.items()}
