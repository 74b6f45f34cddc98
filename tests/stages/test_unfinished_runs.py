"""A run that was begun with other settings is left where it is, and one is told so with what has changed."""

from __future__ import annotations

import json

from sio_ray.config import load_config
from sio_ray.progress import console
from sio_ray.stages.layout import train_runs
from sio_ray.stages.train import _BEGUN_NAME, _STATE_NAME, _tell_of_unfinished


def begin(run):
    state = run.place.folder / _STATE_NAME
    state.mkdir(parents=True)
    (state / _BEGUN_NAME).write_text(json.dumps(run.place.identity))


def told(run):
    with console.capture() as capture:
        _tell_of_unfinished(run)
    return capture.get()


def test_other_settings_are_named_with_what_to_do(tmp_path):
    base = [f"output_dir={tmp_path}", "train.seeds=[0]", "train.arms=[baseline]"]
    (before,) = train_runs(load_config("digits", base))
    (after,) = train_runs(load_config("digits", [*base, "train.learning_rate=0.3", "train.num_workers=2"]))
    assert told(after) == ""
    begin(before)
    assert told(after) == (
        "  train baseline, seed 0 starts anew, as an unfinished run has other settings "
        "(learning_rate: 0.05 -> 0.3); "
        f"go back to those to finish it, or delete {before.place.folder}\n"
    )
    assert told(before) == "", "it goes on"
    begin(after)
    assert told(after) == "", "so does this one"


def test_other_seeds_arms_and_members_are_no_other_settings(tmp_path):
    base = [f"output_dir={tmp_path}", "train.ensemble_size=2"]
    first, *others = train_runs(load_config("digits", base))
    for run in others:
        begin(run)
    assert told(first) == ""
