"""A record of checkpoints that was cut off is written anew, as Ray itself reads it."""

from __future__ import annotations

import pytest
import torch
from ray.train import CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.context import StorageContext

from sio_ray.training.ray_record import RECORD_NAME, mend_record
from sio_ray.training.state import save_progress


def leave(folder, name, step, accuracy, *, whole=True):
    """A checkpoint, as a run leaves it."""
    path = folder / name
    path.mkdir(parents=True)
    points = [{"step": step, "val_accuracy": accuracy}]
    save_progress(path, {"weight": torch.full((4,), float(step))}, step, points)
    if not whole:
        state = path / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-3])


def manager_of(folder, best_by):
    """What Ray makes of the folder."""
    config = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=best_by)
    return CheckpointManager(config, StorageContext(folder.parent, folder.name))


@pytest.mark.parametrize("text", ["", '{"ray_version": "2.6'])
@pytest.mark.parametrize("best_by", [None, "val_accuracy"])
def test_a_record_that_was_cut_off_holds_the_whole_checkpoints_again(tmp_path, text, best_by, capsys):
    folder = tmp_path / "run"
    leave(folder, "checkpoint_b", 100, 0.9)
    leave(folder, "checkpoint_a", 200, 0.8)
    leave(folder, "checkpoint_c", 300, 0.95, whole=False)
    (folder / RECORD_NAME).write_text(text)
    mend_record(folder, best_by)
    manager = manager_of(folder, best_by)
    assert manager._latest_checkpoint_result.checkpoint.path.endswith("checkpoint_a")
    kept = [result.metrics["step"] for result in manager._checkpoint_results]
    assert kept == ([200, 100] if best_by else [100, 200]), "the best last, as Ray deletes from the front"
    assert "was cut off; continuing from the one at step 200" in " ".join(capsys.readouterr().err.split())


def test_a_record_without_a_whole_checkpoint_goes_and_a_whole_one_stays(tmp_path):
    folder = tmp_path / "run"
    leave(folder, "checkpoint_c", 300, 0.95, whole=False)
    mend_record(folder, None)
    assert not (folder / RECORD_NAME).exists()
    (folder / RECORD_NAME).write_text("")
    mend_record(folder, None)
    assert not (folder / RECORD_NAME).exists()
    (folder / RECORD_NAME).write_text('{"whole": 1}')
    mend_record(folder, None)
    assert (folder / RECORD_NAME).read_text() == '{"whole": 1}'
