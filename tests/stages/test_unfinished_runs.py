"""A run that was begun with other settings is left where it is, and one is told so with what has changed."""

from __future__ import annotations

import pytest

from sio_ray.config import load_config
from sio_ray.progress import console
from sio_ray.stages.begun import STATE_NAME, note_begun, tell_of_unfinished
from sio_ray.stages.layout import train_runs


def runs_of(tmp_path, *overrides):
    """Config and runs."""
    config = load_config("digits", [f"output_dir={tmp_path}", "train.seeds=[0]", *overrides])
    return config, train_runs(config)


def begin(config, run):
    (run.place.folder / STATE_NAME).mkdir(parents=True)
    note_begun(run.place.folder / STATE_NAME, config, run)


def told(config, run):
    with console.capture() as capture:
        tell_of_unfinished(config, run)
    return capture.get()


@pytest.mark.parametrize(
    ("arm", "changes", "shown"),
    [
        ("baseline", ["train.learning_rate=0.3", "train.num_workers=2"], "train.learning_rate: 0.05 -> 0.3"),
        ("baseline", ["prepare.seed=7", "train.real_weight=0.5"], "prepare.seed: 0 -> 7"),
        ("sio", ["generate.guidance_scale=2"], "generate.guidance_scale: 1.5 -> 2.0"),
        (
            "sio",
            ["fit_generator.seed=1", "train.momentum=0.5", "train.micro_batches=2"],
            "fit_generator.seed: 0 -> 1, train.micro_batches: 1 -> 2, train.momentum: 0.9 -> 0.5",
        ),
    ],
)
def test_other_settings_are_shown_as_a_command_names_them_with_what_to_do(tmp_path, arm, changes, shown):
    before, (begun,) = runs_of(tmp_path, f"train.arms=[{arm}]")
    after, (run,) = runs_of(tmp_path, f"train.arms=[{arm}]", *changes)
    assert told(after, run) == ""
    begin(before, begun)
    assert told(after, run) == (
        f"  train {arm}, seed 0 starts anew, as an unfinished run has other settings ({shown}); "
        f"go back to those to finish it, or delete {begun.place.folder}\n"
    )
    assert told(before, begun) == "", "it goes on"
    begin(after, run)
    assert told(after, run) == "", "so does this one"


def test_another_synthetic_set_is_shown_by_its_path(tmp_path):
    begin(*(lambda config, runs: (config, runs[0]))(*runs_of(tmp_path, "train.arms=[sio]", "train.synthetic_set=/a")))
    config, (run,) = runs_of(tmp_path, "train.arms=[sio]", "train.synthetic_set=/b")
    assert "other settings (train.synthetic_set: '/a' -> '/b');" in told(config, run)


def test_other_seeds_arms_and_members_are_no_other_settings(tmp_path):
    config, (first, *others) = runs_of(tmp_path, "train.seeds=[0,1]", "train.ensemble_size=2")
    for run in others:
        begin(config, run)
    assert told(config, first) == ""
