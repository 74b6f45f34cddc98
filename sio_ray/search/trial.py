"""What is tried and what came of it: trials, validations and results, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np

Phase = Literal["search", "confirm"]

#: `stopped` early by a rule; `diverged` with a loss that is not finite; `failed` by an error or a death.
Status = Literal["done", "stopped", "diverged", "failed"]


@dataclass(frozen=True)
class Floors:
    """Below what a trial stops, at each of its validations.

    Attributes:
        rule: `now` compares the objective at a validation with the floor, `best` the best so far.
        values: one per validation of a whole run; None where nothing stops.
    """

    rule: Literal["now", "best"] = "now"
    values: tuple[float | None, ...] = ()

    def stop(self, objectives: list[float]) -> bool:
        """Whether to stop after the validations that gave these objectives."""
        number = len(objectives) - 1
        floor = self.values[number] if number < len(self.values) else None
        return floor is not None and (objectives[-1] if self.rule == "now" else max(objectives)) < floor


@dataclass(frozen=True)
class Trial:
    """One configuration to train and to judge.

    Attributes:
        index: position in the search; 0 is the baseline.
        arm: `baseline` (real images alone) or `sio`.
        values: dotted config field to value.
        seeds: one training run each.
        last: number of the validation that ends it.
        first: number of the validation that it starts from, with the parent's weights; 0 starts anew.
        parent: index of the trial that it continues; None if it starts anew.
        phase: of the search, or of confirming its best.
        floors: when to stop it.
    """

    index: int
    arm: Literal["baseline", "sio"]
    values: Mapping[str, Any]
    seeds: tuple[int, ...]
    last: int
    first: int = 0
    parent: int | None = None
    phase: Phase = "search"
    floors: Floors = field(default_factory=Floors)


@dataclass(frozen=True)
class Validation:
    """What a trial was worth at one point of its training.

    Attributes:
        step: optimiser steps done.
        by_seed: metric to its value for each seed, in the trial's order.
    """

    step: int
    by_seed: Mapping[str, tuple[float, ...]]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `asdict` gave, from JSON."""
        return cls(values["step"], {metric: tuple(each) for metric, each in values["by_seed"].items()})

    def mean(self, metric: str) -> float:
        """Over seeds."""
        return float(np.mean(self.by_seed[metric]))

    def summary(self) -> dict[str, float]:
        """Mean over seeds of every metric, and its standard deviation (ddof 0) as `{metric}_std`."""
        found: dict[str, float] = {"step": self.step}
        for metric, values in self.by_seed.items():
            found |= {metric: float(np.mean(values)), f"{metric}_std": float(np.std(values))}
        return found


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        status: how it ended.
        curve: its validations, in order.
        train_s: seconds of optimiser steps.
        judge_s: seconds of judging at validations.
        wall_s: seconds in the trial's process, all attempts that left their state together.
        error: why it diverged or failed.
    """

    status: Status
    curve: tuple[Validation, ...] = ()
    train_s: float = 0.0
    judge_s: float = 0.0
    wall_s: float = 0.0
    error: str | None = None

    def value(self, metric: str) -> float | None:
        """The mean of a metric at the last validation; None if the trial gave no usable network."""
        return self.curve[-1].mean(metric) if self.status in ("done", "stopped") else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` reads them to the bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(**{**values, "curve": tuple(Validation.from_json(point) for point in values["curve"])})
