"""Ids of jobs: one that says what it is, and which attempt of a given one comes next."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from sio_ray.errors import ConfigError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_RANDOM_BYTES = 3

#: States of a job that ended without its result, by Ray's names.
_FELL = ("FAILED", "STOPPED")


def new_id(what: str, config_name: str) -> str:
    """An id that no other job has, such as `sio-ray-train-digits-5f3a9c`."""
    return f"sio-ray-{what}-{config_name}-{secrets.token_hex(_RANDOM_BYTES)}"


def check_id(given: str) -> str:
    """Refuse an id that could not stand in a URL.

    Raises:
        ConfigError: it could not.
    """
    if not _ID.fullmatch(given):
        rule = "letters, digits, '_', '.' and '-', beginning with a letter or a digit"
        raise ConfigError("--id", rule, given, "give a name such as nightly-digits")
    return given


def next_attempt(given: str, states: Mapping[str, str]) -> str:
    """The id under which a job with a given id goes on.

    Ray takes an id once. So a job that failed or was stopped goes on as `ID-2`, `ID-3`, ...; the id of one that waits,
    runs or succeeded is the answer itself.

    Args:
        given: the id that was asked for.
        states: of all jobs of the cluster, by id.
    """
    attempt, count = given, 1
    while states.get(attempt) in _FELL:
        count += 1
        attempt = f"{given}-{count}"
    return attempt
