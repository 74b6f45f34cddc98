"""Ray Train's record of a run's checkpoints: what tells one from another, and writes one anew that was cut off."""

from __future__ import annotations

from pathlib import Path

from sio_ray.errors import CheckpointError
from sio_ray.progress import console
from sio_ray.reading import parse_json_object
from sio_ray.training.loop import Point
from sio_ray.training.state import load_progress

#: In Ray's folder of a run.
RECORD_NAME = "checkpoint_manager_snapshot.json"


def committed(folder: Path) -> bytes:
    """Ray's record of the checkpoints that it would resume a run from; another one after each that is committed."""
    record = folder / RECORD_NAME
    return record.read_bytes() if record.exists() else b""


def mend_record(folder: Path, best_by: str | None) -> None:
    """Write the record anew, of the checkpoints that are whole, if it is not.

    Ray writes it in place at every report: a kill or a full disk in that moment leaves part of it, and Ray would refuse
    the folder from then on although the checkpoints are there.

    Args:
        folder: Ray's, of the run.
        best_by: as for `fit_on_workers`.
    """
    record = folder / RECORD_NAME
    if not record.exists() or _is_whole(record):
        return
    found = _whole_checkpoints(folder)
    if not found:
        record.unlink()
        return
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        _CheckpointManagerState,
        _TrainingResultState,
    )

    results = [_TrainingResultState(checkpoint_dir_name=name, metrics=point) for name, point in found]
    order = sorted(range(len(found)), key=lambda index: found[index][1][best_by]) if best_by else range(len(found))
    state = _CheckpointManagerState(
        checkpoint_results=[results[index] for index in order],
        checkpoint_report_indices=list(order),
        latest_checkpoint_result=results[-1],
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=len(found),
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    mended = record.with_suffix(".partial")
    mended.write_text(state.model_dump_json(), encoding="utf-8")
    mended.replace(record)
    step = int(found[-1][1]["step"])
    console.print(
        f"  the record of the checkpoints in {folder} was cut off; continuing from the one at step {step:,}",
        markup=False,
        soft_wrap=True,
    )


def _is_whole(record: Path) -> bool:
    try:
        parse_json_object(record.read_bytes())
    except ValueError:
        return False
    return True


def _whole_checkpoints(folder: Path) -> list[tuple[str, Point]]:
    """Names of the checkpoints that can be read and their last points, by step."""
    found = []
    for path in folder.glob("checkpoint_*"):
        if path.is_dir():
            try:
                _, _, points = load_progress(path)
            except CheckpointError:  # cut off as well
                continue
            found.append((path.name, points[-1]))
    return sorted(found, key=lambda pair: pair[1]["step"])
