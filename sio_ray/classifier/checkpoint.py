"""Classifier checkpoints: weights as safetensors, architecture as JSON; nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import CheckpointError

_WEIGHTS = "model.safetensors"
_ARCHITECTURE = "architecture.json"


def save_classifier(folder: Path, architecture: Architecture, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint folder.

    Args:
        folder: is made if needed.
        architecture: what the weights belong to.
        weights: the state dict of a `Classifier`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.cpu().contiguous() for name, value in weights.items()}, folder / _WEIGHTS)
    (folder / _ARCHITECTURE).write_text(architecture.model_dump_json(indent=1) + "\n")


def load_classifier(folder: str | Path) -> Classifier:
    """Load a checkpoint, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: it is missing, broken, or its weights are of another architecture than its JSON says.
    """
    folder = Path(folder)
    for name in (_ARCHITECTURE, _WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} is no checkpoint ({name} is missing); run `sio-ray train`, or check the path."
            )
    try:
        architecture = Architecture.model_validate(json.loads((folder / _ARCHITECTURE).read_text()))
        weights = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} cannot be read ({_reason(error)}); delete it and train again."
        ) from error
    classifier = Classifier(architecture)
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        expected = classifier.state_dict()
        different = [
            n
            for n in {**expected, **weights}
            if getattr(expected.get(n), "shape", 0) != getattr(weights.get(n), "shape", 0)
        ]
        raise CheckpointError(
            f"the weights in {folder} are of another architecture than {architecture.network} of width "
            f"{architecture.width} ({len(different)} tensors differ, the first is {different[0]}); "
            f"give the {_ARCHITECTURE} that belongs to them."
        ) from error
    return classifier.eval()


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([_ARCHITECTURE, *map(str, first["loc"][:1]), first["msg"]])
    return str(error).splitlines()[0]
