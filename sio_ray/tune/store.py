"""What trials leave on disk: a result, written last and whole, and until then the state to continue from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sio_ray.errors import TrainingError
from sio_ray.imageset.storage import Folder
from sio_ray.reading import parse_json_object
from sio_ray.search.trial import TrialResult

RESULT_NAME, ERROR_NAME, STATE_NAME = "result.json", "error.json", "state.safetensors"


def read_result(folder: Path | str) -> TrialResult | None:
    """The result in a trial's folder; None if it has not ended.

    Raises:
        TrainingError: it is corrupt.
    """
    path = Path(folder) / RESULT_NAME
    try:
        return TrialResult.from_json(parse_json_object(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({type(error).__name__}); delete {folder} to try that trial again."
        ) from error


def write_result(folder: str, result: TrialResult) -> None:
    """Write a result so that it appears whole."""
    Folder(folder).write_bytes(RESULT_NAME, json.dumps(result.to_json()).encode())


def read_error(folder: Path) -> str | None:
    """What the last attempt at a trial ended with, if it could still say so."""
    try:
        return str(parse_json_object((folder / ERROR_NAME).read_bytes())["error"])
    except (OSError, ValueError, KeyError):  # there is none, or its writer died while it wrote
        return None


def write_error(folder: str, error: str) -> None:
    """Leave a word on what an attempt ended with."""
    Folder(folder).write_bytes(ERROR_NAME, json.dumps({"error": error}).encode())


def save_state(folder: str, states: Sequence[dict[str, Tensor]], progress: dict[str, Any]) -> None:
    """Write what a trial continues from, in one file, so that tensors and progress never differ.

    Args:
        folder: of the trial.
        states: of the trainees, one per seed.
        progress: JSON values.
    """
    flat = {f"{number}.{name}": value for number, state in enumerate(states) for name, value in state.items()}
    Folder(folder).write_bytes(STATE_NAME, safetensors.torch.save(flat, {"progress": json.dumps(progress)}))


def load_state(folder: str) -> tuple[list[dict[str, Tensor]], dict[str, Any]] | None:
    """Read what `save_state` wrote; None if there is nothing.

    Raises:
        TrainingError: it is corrupt.
    """
    path = Path(folder) / STATE_NAME
    if not path.exists():
        return None
    states: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            progress = parse_json_object(file.metadata()["progress"])
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                number, name = key.split(".", 1)
                states.setdefault(int(number), {})[name] = file.get_tensor(key)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TrainingError(
            f"the state of a trial in {path} cannot be read ({error}); delete {folder} to try it from the start."
        ) from error
    return [states[number] for number in sorted(states)], progress


def has_state(folder: Path | str) -> bool:
    """Whether a trial's folder holds a state to continue from."""
    return (Path(folder) / STATE_NAME).exists()


def delete_state(folder: str) -> None:
    """Forget the state of a trial that has ended."""
    Folder(folder).delete(STATE_NAME)
