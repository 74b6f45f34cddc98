"""The actor that training workers write their progress to; knows no torch, which its process would load for nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sio_ray.training.loop import Point


@dataclass(frozen=True)
class Spent:
    """What the process of a run's first worker has done so far; it starts at nothing again with the process.

    Attributes:
        steps: optimiser steps.
        step_s: seconds of them.
        wait_s: of these, seconds of waiting for the feed.
        report_s: seconds between steps, for validation and checkpoints.
    """

    steps: int = 0
    step_s: float = 0.0
    wait_s: float = 0.0
    report_s: float = 0.0

    def since(self, before: Spent) -> Spent:
        """What has come since; all of it if the process is another one."""
        if self.steps < before.steps:
            return self
        mine, theirs = asdict(self), asdict(before)
        return Spent(**{name: mine[name] - theirs[name] for name in mine})


@dataclass
class Row:
    """How far a run is.

    Attributes:
        step: that is done.
        spent: by its process.
        points: of its training curve that nobody has taken yet.
    """

    step: int = 0
    spent: Spent = Spent()
    points: list[Point] = field(default_factory=list)


class Board:
    """The actor that workers write their progress to and the driver reads."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def update(self, run: str, step: int, spent: Spent, point: Point | None = None) -> None:
        """Set how far a run is, and add a point to its training curve if there is a new one."""
        row = self._rows.setdefault(run, Row())
        row.step, row.spent = step, spent
        row.points += [] if point is None else [point]

    def take(self) -> dict[str, Row]:
        """How far every run is; its points are given once."""
        taken, self._rows = self._rows, {run: Row(row.step, row.spent) for run, row in self._rows.items()}
        return taken
