"""Search spaces: data that is read and never run."""

import re

import pytest

from sio_ray.errors import ConfigError
from sio_ray.search.space import between, draw, extremes, grid_points, is_grid, read_space, to_json
from sio_ray.seeding import numpy_generator


def written(tmp_path, text):
    path = tmp_path / "space.py"
    path.write_text(text)
    return path


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
        ('SPACE = {"train.warmup_steps": ("integer", 0.5, 3)}', "got ('integer', 0.5, 3); correct it in"),
        ('SPACE = {"train.compile": ("uniform", False, True)}', "got ('uniform', False, True); correct it in"),
        ('SPACE = {"train.momentum": ("uniform", 0, 1e999)}', "got ('uniform', 0, inf); correct it in"),
        ('SPACE = {"train.momentum": ["grid", [0.5]]}', "got ['grid', [0.5]]; correct it in"),
        ('SPACE = {"train.momentum": ("uniform", 1, 0)}', "got ('uniform', 1, 0); correct it in"),
        ('SPACE = {"train.momentum": ("loguniform", 0, 1)}', "got ('loguniform', 0, 1); correct it in"),
        (
            'SPACE = {3: ("grid", [0.5])}',
            "SPACE must be a dict whose keys are fields of the config, got 3; correct it in",
        ),
        ('SPACE = {"train.momentum": ("choice", [])}', "got ('choice', []); correct it in"),
    ],
)
def test_a_broken_space_is_a_config_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_space(written(tmp_path, text))


def test_a_missing_space_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^tune\.space must be a file that exists, got '.*none\.py'; check the path"):
        read_space(tmp_path / "none.py")


def test_draws_stay_inside_and_keep_few_digits():
    entries = {
        "uniform": ("uniform", 0.5, 0.9),
        "loguniform": ("loguniform", 1e-5, 1e-2),
        "integer": ("integer", 3, 5),
        "choice": ("choice", [0.25, "a", None, [1, 2]]),
    }
    drawn = {
        name: [draw(entry, numpy_generator("test", number)) for number in range(400)] for name, entry in entries.items()
    }
    assert all(0.5 <= value <= 0.9 for value in drawn["uniform"])
    decays = sorted(drawn["loguniform"])
    assert 1e-5 <= decays[0] < 2e-5
    assert 1e-4 < decays[200] < 1e-3, "half of the draws lie below the geometric mean"
    assert decays[-1] <= 1e-2
    assert set(drawn["integer"]) == {3, 4, 5}
    assert all(value in entries["choice"][1] for value in drawn["choice"])
    assert all(len(f"{value:g}") <= 6 for value in drawn["uniform"])


def test_grids_give_all_points_the_last_field_fastest():
    space = {"a": ("grid", [1, 2]), "b": ("grid", ["x", "y"])}
    assert is_grid(space)
    assert [tuple(point.values()) for point in grid_points(space)] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    mixed = {**space, "c": ("uniform", 0, 1)}
    assert not is_grid(mixed)
    assert grid_points(mixed) == grid_points(space)


def test_a_space_is_told_as_json():
    space = {"a": ("integer", 1, 3), "b": ("choice", [None, "x"])}
    assert to_json(space) == {
        "a": {"kind": "integer", "low": 1, "high": 3},
        "b": {"kind": "choice", "values": [None, "x"]},
    }
    assert [extremes(entry) for entry in space.values()] == [[1, 3], [None, "x"]]


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
@pytest.mark.parametrize("ends", [(0.999951, 0.99996), (0.333333, 0.333338), (12341, 12344)])
def test_rounding_never_passes_an_end(kind, ends):
    low, high = ends
    for number in range(20):
        assert low <= draw((kind, low, high), numpy_generator("test", number)) <= high
    assert low <= between((kind, low, high)) <= high
