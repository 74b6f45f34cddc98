"""What OOD sets are called: near or far, and a name. By itself, as those who only open sets need no detector."""

from __future__ import annotations

from typing import Literal

Group = Literal["near", "far"]

#: Group and name of an OOD set.
OODSet = tuple[Group, str]
