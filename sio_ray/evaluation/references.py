"""How a network is referred to in `evaluate.checkpoints`, and which local paths that names; loads no network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

#: Whose networks stand behind a prefix and a colon; all others are folders or files of checkpoints.
SourceName = Literal["openood", "torchvision", "timm"]

SOURCE_NAMES: tuple[SourceName, ...] = get_args(SourceName)


def members_in(reference: str) -> tuple[str, ...]:
    """The networks of an ensemble, which a plus joins; one, if it is none."""
    return tuple(reference.split("+"))


def path_in(member: str) -> str | None:
    """The path that a reference to one network names, or None where it names published weights alone."""
    prefix, colon, rest = member.partition(":")
    if not colon or prefix not in SOURCE_NAMES:
        return member
    rest, _, _ = rest.partition("?")
    if prefix == "openood":
        return rest
    _, _, path = rest.partition("@")
    return path or None


def paths_in(reference: str) -> list[Path]:
    """The paths that a reference names and that are there; a missing one is for the stage to refuse."""
    paths = (path_in(member) for member in members_in(reference))
    return [Path(path) for path in paths if path is not None and Path(path).exists()]
