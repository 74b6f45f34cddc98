"""What a training run was begun with: noted beside its checkpoints, and compared when it would begin anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sio_ray.config import Config, TrainConfig
from sio_ray.errors import StageError
from sio_ray.imageset.storage import Folder
from sio_ray.progress import console
from sio_ray.provenance import changes
from sio_ray.reading import parse_json_object, reason_of
from sio_ray.redaction import redact_values
from sio_ray.stages.layout import Run

#: Of a run that has not ended: Ray's checkpoints, and beside them what decides the run.
STATE_NAME, BEGUN_NAME = "ray_train", "begun.json"


def note_begun(state_dir: Path, config: Config, run: Run) -> None:
    """Write down what a run begins with."""
    Folder(str(state_dir)).write_bytes(BEGUN_NAME, json.dumps(settings_of(config, run), indent=1).encode())


def tell_of_unfinished(config: Config, run: Run) -> None:
    """Say that a run which was begun with other settings is left where it is, and what has changed since.

    Settings that decide nothing, such as the number of workers, may change between a kill and the next attempt.
    """
    if (run.place.folder / STATE_NAME).exists():
        return  # begun with these settings: it goes on
    settings, stem = settings_of(config, run), run.place.folder.name.removesuffix(run.place.fingerprint)
    for path in sorted(run.place.folder.parent.glob(f"{stem}*/{STATE_NAME}/{BEGUN_NAME}")):
        try:
            begun = parse_json_object(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StageError(
                f"{path} cannot be read ({reason_of(error)}); delete {path.parent.parent} to train that run anew."
            ) from error
        if begun.get("member") != settings.get("member"):
            continue
        changed = ", ".join(changes(begun, settings))
        console.print(
            f"  train {run.name} starts anew, as an unfinished run has other settings ({changed}); "
            f"go back to those to finish it, or delete {path.parent.parent}",
            style="dim",
            markup=False,
            soft_wrap=True,
        )


def settings_of(config: Config, run: Run) -> dict[str, Any]:
    """All that decides a run as JSON values, by the names that a command gives them; for its inputs, their fields."""
    identity = dict(run.place.identity)
    inputs = {"prepare": config.prepare.identity()}
    del identity["prepare"]
    synthetic = identity.pop("synthetic", None)
    if synthetic is not None and config.train.synthetic_set is not None:
        identity["synthetic_set"] = synthetic
    elif synthetic is not None:
        inputs |= {"fit_generator": config.fit_generator.identity(), "generate": config.generate.identity()}
    of_inputs = {f"{section}.{name}": value for section, fields in inputs.items() for name, value in fields.items()}
    fields = TrainConfig.model_fields
    settings = of_inputs | {f"train.{name}" if name in fields else name: value for name, value in identity.items()}
    return dict(redact_values(settings))
