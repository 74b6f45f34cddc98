"""Search spaces as data: read from a file without running it, and what their entries mean."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sio_ray.errors import ConfigError

#: Dotted config field to ("uniform", low, high), ("loguniform", low, high), ("integer", low, high), ("choice", [...])
#: or ("grid", [...]).
Space = Mapping[str, tuple[Any, ...]]

RANGES = ("uniform", "loguniform", "integer")
LISTS = ("choice", "grid")

_FORM = (
    '("uniform", low, high), ("loguniform", low, high), ("integer", low, high), ("choice", [...]) or ("grid", [...])'
)

#: Digits of a drawn number: enough to tell trials apart, few enough to read and to write into a config.
_DIGITS = 4


def read_space(path: Path) -> Space:
    """Read `SPACE` from a module without running it: a space is data.

    Raises:
        ConfigError: no such file, no literal `SPACE`, or an entry of another form.
    """
    if not path.is_file():
        raise ConfigError("tune.space", "a file that exists", str(path), "check the path, or see tune_spaces/")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, MemoryError, RecursionError) as error:  # the last two of deep nesting
        raise ConfigError("tune.space", "a Python file that defines SPACE", str(path), f"mend it ({error})") from error
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "SPACE" for target in targets):
            try:
                space = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            except (ValueError, TypeError, MemoryError, RecursionError) as error:
                raise ConfigError(
                    "tune.space", "a file whose SPACE is a literal", str(path), "write values, no calls"
                ) from error
            return _checked_form(space, path)
    raise ConfigError("tune.space", "a Python file that defines SPACE", str(path), "see tune_spaces/ for the form")


def _checked_form(space: Any, path: Path) -> Space:
    if not isinstance(space, dict) or not space:
        raise ConfigError("tune.space", "a file whose SPACE is a dict of fields", str(path), "name at least one field")
    for key, entry in space.items():
        if not isinstance(key, str):
            raise ConfigError("SPACE", "a dict whose keys are fields of the config", key, f"correct it in {path}")
        if not isinstance(entry, tuple) or not (_is_range(entry) or _is_list(entry)):
            raise ConfigError(f"SPACE[{key!r}]", _FORM, entry, f"correct it in {path}")
    return space


def _is_range(entry: tuple[Any, ...]) -> bool:
    if len(entry) != 3 or entry[0] not in RANGES:
        return False
    number = int if entry[0] == "integer" else int | float
    low, high = entry[1:]
    are_numbers = all(isinstance(bound, number) and not isinstance(bound, bool) for bound in (low, high))
    return are_numbers and low < high and math.isfinite(high - low) and (entry[0] != "loguniform" or low > 0)


def _is_list(entry: tuple[Any, ...]) -> bool:
    return len(entry) == 2 and entry[0] in LISTS and isinstance(entry[1], list) and bool(entry[1])


def extremes(entry: tuple[Any, ...]) -> list[Any]:
    """The values of an entry that a check must see: both ends of a range, or all of a list."""
    return list(entry[1:]) if entry[0] in RANGES else entry[1]


def between(entry: tuple[Any, ...]) -> Any:
    """A value inside a range: between whole ends a fraction, which a field of whole numbers does not take."""
    if entry[0] in ("uniform", "loguniform"):
        return within(entry, entry[1] + (entry[2] - entry[1]) / math.pi)
    return extremes(entry)[0]


def is_grid(space: Space) -> bool:
    """Whether nothing is drawn, so that a search is over when all points were tried."""
    return all(entry[0] == "grid" for entry in space.values())


def num_points(space: Space, num_trials: int) -> int:
    """How many values a search tries: as many as it is told to, but each point of a pure grid once."""
    return len(grid_points(space)) if is_grid(space) else num_trials


def grid_points(space: Space) -> list[dict[str, Any]]:
    """All points of the space's grids, the last field fastest; one without fields if it has none."""
    grids = {key: entry[1] for key, entry in space.items() if entry[0] == "grid"}
    return [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]


def draw(entry: tuple[Any, ...], rng: np.random.Generator) -> Any:
    """One value of an entry."""
    match entry:
        case ("uniform", low, high):
            return within(entry, rng.uniform(low, high))
        case ("loguniform", low, high):
            return within(entry, math.exp(rng.uniform(math.log(low), math.log(high))))
        case ("integer", low, high):
            return int(rng.integers(low, high, endpoint=True))
        case (_, values):
            return values[int(rng.integers(len(values)))]
    raise AssertionError(f"unchecked entry {entry!r}")


def within(entry: tuple[Any, ...], value: float) -> float:
    """A number of few significant digits inside a range, whose ends may have more."""
    low, high = entry[1:]
    return float(min(max(float(f"{value:.{_DIGITS}g}"), low), high))


def to_json(space: Space) -> dict[str, dict[str, Any]]:
    """Field to `kind`, and `low` and `high` or `values`; for the record and the page."""
    found: dict[str, dict[str, Any]] = {}
    for key, (kind, *rest) in space.items():
        found[key] = {"kind": kind, **(dict(zip(("low", "high"), rest, strict=True)) if kind in RANGES else {})}
        if kind in LISTS:
            found[key]["values"] = rest[0]
    return found
