"""Search spaces: data that is read and checked before the first trial."""

import re
from pathlib import Path

import pytest

from sio_ray.config import load_config
from sio_ray.errors import BatchError, ConfigError
from sio_ray.search.space import read_space

SPACES = sorted((Path(__file__).parents[2] / "tune_spaces").glob("*.py"))
DIGITS = load_config("digits")


def written(tmp_path, text):
    path = tmp_path / "space.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_that_ships_suits_the_digits(path):
    space = read_space(path)
    check_space(space, DIGITS, synthetic_ratio_at_hand=1.0)
    assert sample_trials(space, 3, seed=0)


def test_spaces_are_read_and_never_run(tmp_path):
    marker = tmp_path / "ran"
    path = written(tmp_path, f'open({str(marker)!r}, "w")\nSPACE = {{"train.momentum": ("grid", [0.5])}}\n')
    assert read_space(path) == {"train.momentum": ("grid", [0.5])}
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPACE = {", "tune.space must be a Python file that defines SPACE, got"),
        ("space = {}", "tune.space must be a Python file that defines SPACE, got"),
        ("SPACE = {}", "tune.space must be a file whose SPACE is a dict of fields, got"),
        ("SPACE = dict(a=1)", "tune.space must be a file whose SPACE is a literal, got"),
        ('SPACE = {"train.momentum": ("normal", 0, 1)}', "SPACE['train.momentum'] must be (\"uniform\", low, high)"),
        ('SPACE = {"train.momentum": ("uniform", 1, 0)}', "got ('uniform', 1, 0); correct it in"),
        ('SPACE = {"train.momentum": ("loguniform", 0, 1)}', "got ('loguniform', 0, 1); correct it in"),
        ('SPACE = {"train.momentum": ("choice", [])}', "got ('choice', []); correct it in"),
    ],
)
def test_a_broken_space_is_a_config_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_space(written(tmp_path, text))


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        ({"train.momentun": ("grid", [0.5])}, ConfigError, "train.momentun must be a field of the config, got 0.5"),
        ({"train.momentum": ("uniform", 0.5, 1.5)}, ConfigError, "train.momentum must be less than 1.0, got 1.5;"),
        ({"prepare.seed": ("grid", [1])}, ConfigError, "tune.space must be of fields that change a training run"),
        (
            {"train.synthetic_ratio": ("choice", [0.5, 2.0])},
            ConfigError,
            "train.synthetic_ratio must be at most 1, the synthetic images at hand over the real ones, got 2.0; "
            "draw more with generate.synthetic_ratio=2",
        ),
        ({"train.real_weight": ("uniform", 0.5, 0.999)}, BatchError, "a batch of 128 cannot hold both sources at"),
    ],
)
def test_a_space_that_leaves_the_bounds_is_refused_before_the_first_trial(space, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_space(space, DIGITS, synthetic_ratio_at_hand=1.0)


def test_a_pure_grid_gives_every_point_once():
    space = {"train.real_weight": ("grid", [0.5, 0.9]), "train.momentum": ("grid", [0.0, 0.8])}
    trials = sample_trials(space, 1, seed=0)
    assert sorted(tuple(trial.values()) for trial in trials) == [(0.5, 0.0), (0.5, 0.8), (0.9, 0.0), (0.9, 0.8)]


def test_draws_stay_inside_and_a_longer_search_begins_with_a_shorter_one():
    space = {
        "train.real_weight": ("uniform", 0.5, 0.9),
        "train.weight_decay": ("loguniform", 1e-5, 1e-2),
        "train.synthetic_ratio": ("choice", [0.25, 1.0]),
        "train.momentum": ("grid", [0.5, 0.9]),
    }
    trials = sample_trials(space, 200, seed=1)
    assert trials[:20] == sample_trials(space, 20, seed=1)
    assert trials != sample_trials(space, 200, seed=2)
    assert all(list(trial) == list(space) for trial in trials)
    assert all(0.5 <= trial["train.real_weight"] <= 0.9 for trial in trials)
    decays = sorted(trial["train.weight_decay"] for trial in trials)
    assert 1e-5 <= decays[0] < 1e-4 < decays[100] < 1e-3 < decays[-1] <= 1e-2
    assert {trial["train.synthetic_ratio"] for trial in trials} == {0.25, 1.0}
    assert sum(trial["train.momentum"] == 0.5 for trial in trials) == 100
