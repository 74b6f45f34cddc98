"""What of a config holds on a cluster too: a path that all nodes share, and no secret that would lie on their disks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sio_ray.config import Config
from sio_ray.config.places import places
from sio_ray.errors import ConfigError
from sio_ray.evaluation.references import members_in, path_in
from sio_ray.redaction import is_redacted, redact

#: The one file that a config names and that travels with it.
SPACE_FIELD = "tune.space"

_CHECKPOINTS, _GENERATOR = "evaluate.checkpoints", "generate.generator"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@.+)?")


def check_travels(config: Config) -> None:
    """Refuse a config that would mean something else on a cluster, or lay a secret open there.

    A relative path would lead into the job's own folder, which is deleted after it. What is sent lies unpacked on the
    disks of all nodes that work for the job, and stays there: no place for a secret.

    Raises:
        ConfigError: names the field.
    """
    for key, text in _texts(config.model_dump(mode="json")):
        if redact(text) != text or is_redacted(text):
            raise ConfigError(
                key,
                "free of a URI's secret for a job, as it would lie on the disks of the cluster",
                text,
                "give the secret to the nodes in their environment, or to this job by --env NAME",
            )
    for key, text in places(config):
        if key != SPACE_FIELD and any(map(_is_relative, _paths(key, text))):
            example = "output_dir=/shared/runs" if key == "output_dir" else f"{key}=/shared/..."
            raise ConfigError(
                key, "an absolute path or a URI for a job", text, f"set e.g. {example}, where all nodes find it"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)


def _paths(key: str, text: str) -> list[str]:
    """What may be paths in the text of a field."""
    if key == _GENERATOR and _HUB_ID.fullmatch(text) and not Path(text).is_dir():
        return []
    if not key.startswith(_CHECKPOINTS):
        return [text]
    found = map(path_in, members_in(text))
    return [path for path in found if path is not None]


def _is_relative(text: str) -> bool:
    return "://" not in text and not PurePosixPath(text).is_absolute()
