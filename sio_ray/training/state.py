"""Training state as safetensors and JSON, so that resuming never unpickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sio_ray.errors import CheckpointError
from sio_ray.reading import parse_json_object

_TENSORS = "state.safetensors"
_POINTS = "progress.json"


def flatten_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, buffers and optimiser state as one flat mapping; values are copies on the CPU.

    Learning rates are not kept: they are a function of the step.
    """
    flat = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                flat[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    return {name: value.detach().cpu().clone().contiguous() for name, value in flat.items()}


def model_weights(flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the model in what `flatten_state` took."""
    return {name.removeprefix("model."): value for name, value in flat.items() if name.startswith("model.")}


def restore_state(flat: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put back what `flatten_state` took."""
    model.load_state_dict(model_weights(flat))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".", 2)
            # A copy: the optimiser keeps the tensor and changes it in place.
            state.setdefault(int(index), {})[field] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # In the parameters' memory format, without which optimisers work on one tensor at a time.
    for parameter, fields in optimizer.state.items():
        for name, value in fields.items():
            if value.shape == parameter.shape:
                fields[name] = torch.empty_like(parameter).copy_(value)


def save_progress(folder: Path, state: dict[str, Tensor], step: int, points: list[dict[str, float]]) -> None:
    """Write a checkpoint to resume from.

    Args:
        folder: an empty folder; whoever calls makes it appear at once.
        state: flat tensors.
        step: optimiser steps done.
        points: the training curve so far.
    """
    save_file(state, folder / _TENSORS)
    (folder / _POINTS).write_text(json.dumps({"step": step, "points": points}))


def load_progress(folder: Path) -> tuple[dict[str, Tensor], int, list[dict[str, float]]]:
    """Read what `save_progress` wrote: state, step and points.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    try:
        progress: dict[str, Any] = parse_json_object((folder / _POINTS).read_bytes())
        return load_file(folder / _TENSORS), int(progress["step"]), list(progress["points"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"the training state in {folder} cannot be read ({error}); delete its folder to train from the start."
        ) from error
