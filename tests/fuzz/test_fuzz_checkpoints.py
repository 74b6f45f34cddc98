"""Whatever a checkpoint or somebody else's outputs hold, nothing of it is run, and its reader loads it or names it."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import broken, broken_json, fuzz
from hypothesis import given
from hypothesis import strategies as st

from sio_ray.classifier.checkpoint import load_classifier, save_classifier
from sio_ray.classifier.foreign_weights import read_state_dict
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import CheckpointError, SioRayError
from sio_ray.evaluation.given import load_given
from sio_ray.training.state import load_progress, save_progress
from sio_ray.tune.store import load_state, read_result, save_state

ARCHITECTURE = Architecture(
    network="small_cnn", width=4, class_names=("a", "b"), image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)
)


@contextlib.contextmanager
def only_our_errors() -> Iterator[None]:
    with contextlib.suppress(SioRayError):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_classifier(folder, ARCHITECTURE, Classifier(ARCHITECTURE).state_dict())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@fuzz
@given(st.data())
def test_a_checkpoint_of_any_bytes(checkpoint: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(sorted(checkpoint)))
    for name, content in checkpoint.items():
        (tmp_path / name).write_bytes(data.draw(broken(content)) if name == chosen else content)
    with only_our_errors():
        load_classifier(tmp_path)


@fuzz
@given(values=broken_json(ARCHITECTURE.model_dump(mode="json")))
def test_an_architecture_of_any_values(values: object, checkpoint: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in checkpoint.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "architecture.json").write_text(json.dumps(values))
    with only_our_errors():
        load_classifier(tmp_path)


def test_an_architecture_of_any_size_takes_no_memory(checkpoint: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in checkpoint.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "architecture.json").write_text(ARCHITECTURE.model_copy(update={"width": 10**6}).model_dump_json())
    with pytest.raises(CheckpointError, match="are of another architecture"):
        load_classifier(tmp_path)


class Payload:
    """What a pickle runs when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_no_reader_runs_a_pickle(tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "file.ckpt"
    torch.save({"weight": Payload(mark)}, file)
    with pytest.raises(CheckpointError):
        read_state_dict(file)
    file.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(CheckpointError):
        read_state_dict(file)
    for name in ("train", "val", "test", "near/x"):
        path = tmp_path / "given" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=np.array([Payload(mark)], dtype=object))
    with pytest.raises(SioRayError, match="cannot be read"):
        load_given(str(tmp_path / "given"))
    assert not mark.exists()


@fuzz
@given(st.data())
def test_a_state_dict_of_any_bytes(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "weights.ckpt"
    torch.save({"a": torch.zeros(2, 2), "b": torch.ones(3)}, file)
    file.write_bytes(data.draw(broken(file.read_bytes())))
    with only_our_errors():
        read_state_dict(file)


@fuzz
@given(st.data())
@pytest.mark.parametrize("name", ["train.npz", "last_layer.npz"])
def test_outputs_of_any_bytes(name: str, tmp_path: Path, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, 3)).astype("f4"), np.zeros(2, "f4")
    for each in ("train", "val", "test", "near/x"):
        path = tmp_path / f"{each}.npz"
        path.parent.mkdir(exist_ok=True)
        features = rng.normal(size=(4, 3)).astype("f4")
        labels = np.full(4, -1) if each == "near/x" else np.arange(4) % 2
        np.savez_compressed(path, features=features, logits=features @ weight.T, labels=labels)
    np.savez(tmp_path / "last_layer.npz", weight=weight, bias=bias)
    (tmp_path / name).write_bytes(data.draw(broken((tmp_path / name).read_bytes())))
    with only_our_errors():
        load_given(str(tmp_path))


@fuzz
@given(st.data())
def test_a_training_state_of_any_bytes(tmp_path: Path, data: st.DataObject) -> None:
    save_progress(tmp_path, {"model.a": torch.zeros(2)}, 3, [{"step": 3.0}])
    chosen = data.draw(st.sampled_from(sorted(tmp_path.iterdir())))
    chosen.write_bytes(data.draw(broken(chosen.read_bytes())))
    with only_our_errors():
        load_progress(tmp_path)


@fuzz
@given(st.data())
def test_what_trials_leave_of_any_bytes(tmp_path: Path, data: st.DataObject) -> None:
    save_state(str(tmp_path), [{"a": torch.zeros(2)}], {"step": 1})
    path = tmp_path / "state.safetensors"
    path.write_bytes(data.draw(broken(path.read_bytes())))
    (tmp_path / "result.json").write_bytes(data.draw(broken(b'{"status": "ended", "validations": []}')))
    with only_our_errors():
        load_state(str(tmp_path))
    with only_our_errors():
        read_result(tmp_path)
