"""Reads JSON and YAML that others wrote: broken, deep or exploding text is a ValueError and nothing else."""

from __future__ import annotations

import json
from typing import Any

import yaml

#: YAML's aliases let a short text stand for any number of values; a config has a few hundred.
_MAX_VALUES = 100_000


def parse_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is none, or nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: it is something else.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    return value


def parse_yaml(text: str) -> Any:
    """Read one YAML document as plain values; no tag makes an object of a class.

    Raises:
        ValueError: it is none, is nested too deeply, or stands for more values than any config has; its words go on
            from "valid YAML".
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"near line {mark.line + 1}" if mark is not None else "of printable characters") from error
    except RecursionError as error:
        raise ValueError("that is not nested too deeply") from error
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:  # of a date such as 2023-99-99
        raise ValueError(f"of valid values ({reason_of(error)})") from error
    waiting, num_values = [value], 0
    while waiting:
        num_values += 1
        if num_values > _MAX_VALUES:
            raise ValueError(f"that stands for at most {_MAX_VALUES:,} values")
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list | tuple | set):
            waiting += each
    return value


def ends_in_comment(text: str) -> bool:
    """Whether YAML leaves out the end of a valid document as a comment, as of `a #b`."""
    marks = (yaml.StreamEndToken, yaml.BlockEndToken)  # they stand behind whatever follows the last value
    last = max(
        token.end_mark.index for token in yaml.scan(text, Loader=yaml.SafeLoader) if not isinstance(token, marks)
    )
    return bool(text[last:].strip())


def reason_of(error: BaseException) -> str:
    """The first line of an error, or its class where it has no words."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
