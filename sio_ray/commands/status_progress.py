"""How far the unfinished stages of a run are, by the files that they leave; nothing is asked of Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sio_ray.config import TuneConfig
from sio_ray.errors import ConfigError, SioRayError
from sio_ray.imageset.files import shards_done
from sio_ray.imageset.manifest import MANIFEST_NAME, Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.reading import parse_json_object
from sio_ray.search.space import num_points, read_space

#: Written by generate, Ray Train, train and tune; the names are theirs.
_PLAN, _SNAPSHOT, _BEGUN, _RESULT, _TRIAL_ERROR = (
    *("plan.json", "checkpoint_manager_snapshot.json", "begun.json"),
    *("result.json", "error.json"),
)
_STATE = "ray_train"

#: A file of this kind is small; a larger one is something else.
_MAX_BYTES = 2**26

#: Files and folders that are looked at for the time of the last change.
_MAX_ENTRIES = 20_000

_OUTPUT_FILE = re.compile(r"outputs-\d{5,}-of-(\d{5,})\.arrow")


@dataclass(frozen=True)
class Progress:
    """How far something is.

    Attributes:
        done: of what is counted; None if nothing can be told.
        total: of all; None if not known.
        unit: what is counted.
        note: what else there is to say.
    """

    done: int | None = None
    total: int | None = None
    unit: str = ""
    note: str = ""


def of_prepare(folder: Path) -> Progress:
    """Image sets that are whole, of those that were begun."""
    begun = {path.parent for path in _below(folder) if path.suffix == ".parquet" or path.name == MANIFEST_NAME}
    done = sum((each / MANIFEST_NAME).is_file() for each in begun)
    return Progress(done, None, "image sets", f"{len(begun) - done} begun" if len(begun) > done else "")


def of_training(folder: Path, num_steps: int | None) -> Progress:
    """Steps of the last checkpoint that Ray Train committed.

    Args:
        folder: of the stage.
        num_steps: of the whole training by the config; None if that is of another run.
    """
    state = folder / _STATE
    begun = read_object(state / _BEGUN) or {}
    total = begun.get("train.num_steps", num_steps) if begun.get("train.num_epochs") is None else num_steps
    total = total if isinstance(total, int) else None
    for snapshot in sorted(state.glob(f"*/{_SNAPSHOT}")):
        latest = (read_object(snapshot) or {}).get("latest_checkpoint_result")
        metrics = latest.get("metrics") if isinstance(latest, dict) else None
        step = metrics.get("step") if isinstance(metrics, dict) else None
        if isinstance(step, int | float) and 0 <= step < 2**53:
            return Progress(int(step), total, "steps", "by its last checkpoint")
    return Progress(0 if state.is_dir() else None, total, "steps", "no checkpoint yet")


def of_image_set(folder: Folder) -> Progress:
    """Shards of a set in the making.

    Raises:
        SioRayError: the folder cannot be listed.
    """
    names = folder.files()
    done, total = shards_done(names)
    plan: dict[str, Any] | None = None
    if names.get(_PLAN, _MAX_BYTES) < _MAX_BYTES:
        try:
            plan = parse_json_object(folder.read_bytes(_PLAN))
        except (OSError, ValueError):
            return Progress(done, total or None, "shards", f"{_PLAN} cannot be read")
    num_images, per_shard = ((plan or {}).get(key) for key in ("num_images", "generate.images_per_shard"))
    if isinstance(num_images, int) and isinstance(per_shard, int) and per_shard > 0:
        total = -(-num_images // per_shard)
    return Progress(done, total or None, "shards", "" if MANIFEST_NAME in names or plan else f"no {_PLAN}")


def finished_set(folder: Folder) -> Manifest | None:
    """The manifest of a set; None if it is not finished, or not readable."""
    try:
        return Manifest.read(folder)
    except SioRayError:
        return None


def of_evaluate(run: Path, folder: Path) -> Progress:
    """Shards of images that networks have passed over, and detectors that have scored them."""
    done = total = 0
    for store in sorted(run.glob("outputs-*/*")):
        matches = [match for name in _names(store) if (match := _OUTPUT_FILE.fullmatch(name))]
        done += len(matches)
        total += max((int(match[1]) for match in matches), default=0)
    scored = sum(name.endswith(".json") for path in folder.glob("parts/*") for name in _names(path))
    return Progress(done, total or None, "shards extracted", f"{scored} parts scored" if scored else "")


def num_searched(section: TuneConfig) -> int:
    """Trials of a search, the baseline among them; how many confirm its best shows only at its end."""
    if section.algorithm == "pbt":
        return 1 + section.num_trials * section.num_validations
    try:
        return 1 + num_points(read_space(section.space), section.num_trials)
    except ConfigError:  # it is not here, as where a cluster searched; most draw as many as they are told to
        return 1 + section.num_trials


def of_tune(trials: Path, section: TuneConfig | None) -> Progress:
    """Trials that have a result; those of other searches in the same run count too, as they are shared.

    Args:
        trials: folder of them all.
        section: of the search's config; None if that is not known.
    """
    folders = [path for path in _folders(trials) if not path.name.startswith("networks-")]
    done = sum((path / _RESULT).is_file() for path in folders)
    failed = sum((path / _TRIAL_ERROR).is_file() and not (path / _RESULT).is_file() for path in folders)
    notes = [f"{len(folders) - done} begun"] if len(folders) > done else []
    notes += [f"{failed} ended with an error"] if failed else []
    total = None if section is None else num_searched(section)
    return Progress(done, None if total is None or done > total else total, "trials", ", ".join(notes))


def last_modified(folder: Path) -> str | None:
    """When something below a folder last changed, UTC."""
    newest = 0.0
    for count, path in enumerate((folder, *_below(folder))):
        if count >= _MAX_ENTRIES:
            break
        try:
            newest = max(newest, path.lstat().st_mtime)
        except OSError:  # gone since it was listed
            continue
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds") if newest else None


def read_object(path: Path) -> dict[str, Any] | None:
    """A small JSON object; None if there is none that can be read."""
    try:
        return parse_json_object(path.read_bytes()) if path.stat().st_size < _MAX_BYTES else None
    except (OSError, ValueError):
        return None


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are not followed."""
    for place, _, names in os.walk(folder, followlinks=False):
        yield from (Path(place, name) for name in names)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    return [path for name in sorted(_names(folder)) if (path := folder / name).is_dir() and not path.is_symlink()]
