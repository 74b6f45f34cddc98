"""Search spaces: read as data, checked against the config, and turned into trials."""

from __future__ import annotations

import ast
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from sio_ray.classifier.feed import compose
from sio_ray.config import Config, with_overrides
from sio_ray.errors import ConfigError
from sio_ray.seeding import numpy_generator

#: Dotted config field to ("uniform", low, high), ("loguniform", low, high), ("choice", [...]) or ("grid", [...]).
Space = dict[str, tuple[Any, ...]]

_RANGES = ("uniform", "loguniform")
_LISTS = ("choice", "grid")


def read_space(path: Path) -> Space:
    """Read `SPACE` from a module without running it: a space is data.

    Raises:
        ConfigError: no such file, no literal `SPACE`, or an entry of another form.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError("tune.space", "a Python file that defines SPACE", str(path), f"mend it ({error})") from error
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "SPACE" for target in targets):
            try:
                space = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    "tune.space", "a file whose SPACE is a literal", str(path), "write values, no calls"
                ) from error
            return _checked_form(space, path)
    raise ConfigError("tune.space", "a Python file that defines SPACE", str(path), "see tune_spaces/ for the form")


def _checked_form(space: Any, path: Path) -> Space:
    if not isinstance(space, dict) or not space:
        raise ConfigError("tune.space", "a file whose SPACE is a dict of fields", str(path), "name at least one field")
    for key, entry in space.items():
        right = isinstance(entry, tuple) and (
            (len(entry) == 3 and entry[0] in _RANGES and all(isinstance(bound, int | float) for bound in entry[1:]))
            or (len(entry) == 2 and entry[0] in _LISTS and isinstance(entry[1], list) and entry[1])
        )
        if (
            not right
            or (entry[0] in _RANGES and not entry[1] < entry[2])
            or (entry[0] == "loguniform" and entry[1] <= 0)
        ):
            raise ConfigError(
                f"SPACE[{key!r}]",
                '("uniform", low, high), ("loguniform", low, high), ("choice", [...]) or ("grid", [...])',
                entry,
                f"correct it in {path}",
            )
    return space


def check_space(space: Space, config: Config, synthetic_ratio_at_hand: float) -> None:
    """Refuse a space that leaves the config's bounds anywhere at its corners.

    Args:
        space: what to check.
        config: what its values are put into.
        synthetic_ratio_at_hand: synthetic images over real ones.

    Raises:
        ConfigError: an unknown field, a field of another section than train, a value out of bounds, or more synthetic
            images than there are.
        BatchError: at a corner a batch cannot hold both sources.
    """
    for key, entry in space.items():
        if not key.startswith("train.") or key in ("train.arms", "train.seeds", "train.synthetic_set"):
            raise ConfigError(
                "tune.space", "of fields that change a training run (train.*)", key, "drop it from the space"
            )
        for value in entry[1:] if entry[0] in _RANGES else entry[1]:
            changed = with_overrides(config, {key: value})
            if key == "train.synthetic_ratio" and value > synthetic_ratio_at_hand:
                raise ConfigError(
                    key,
                    f"at most {synthetic_ratio_at_hand:g}, the synthetic images at hand over the real ones",
                    value,
                    f"draw more with generate.synthetic_ratio={value:g}, or lower it in {config.tune.space}",
                )
            compose(changed.train.global_batch_size, changed.train.batch_share)


def sample_trials(space: Space, num_trials: int, seed: int) -> list[dict[str, Any]]:
    """The values of every trial: all points of the grids, repeated until `num_trials` if anything is drawn.

    Args:
        space: what to sample from.
        num_trials: how many, if the space draws anything; a pure grid gives each point once.
        seed: trial i depends on this and i alone, so a longer search begins with the trials of a shorter one.
    """
    grids = {key: entry[1] for key, entry in space.items() if entry[0] == "grid"}
    points = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    if len(grids) == len(space):
        return points
    trials = []
    for index in range(num_trials):
        rng = numpy_generator("trial", seed, index)
        drawn = {key: _draw(entry, rng) for key, entry in space.items() if entry[0] != "grid"}
        merged = {**drawn, **points[index % len(points)]}
        trials.append({key: merged[key] for key in space})
    return trials


def _draw(entry: tuple[Any, ...], rng: np.random.Generator) -> Any:
    match entry:
        case ("uniform", low, high):
            return round(float(rng.uniform(low, high)), 4)
        case ("loguniform", low, high):
            return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")
        case (_, values):
            return values[int(rng.integers(len(values)))]
    raise AssertionError(f"unchecked entry {entry!r}")
