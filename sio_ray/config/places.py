"""Which values of a config are paths or URIs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sio_ray.config.section import Section, is_place


def places(section: Section, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and text of all that is given and is, or may be, a path or URI; an entry's key is `evaluate.outputs.sio`."""
    for name, field in type(section).model_fields.items():
        key, value = prefix + name, getattr(section, name)
        if isinstance(value, Section):
            yield from places(value, f"{key}.")
        elif is_place(field, value):
            yield from _texts(key, value)


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(f"{key}.{name}", each)
    elif isinstance(value, tuple):
        for each in value:
            yield from _texts(key, each)
    elif value is not None:
        yield key, str(value)
