"""Place the values of a field of a search space on an axis from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import LogLocator, MaxNLocator

from sio_ray.report.search_result import shortened, value_text

#: Cells that a range is cut into where trials are averaged.
_NUM_BINS = 5
_MAX_TICKS = 12


@dataclass(frozen=True)
class Scale:
    """Where on an axis the values of one field lie; a list has one place for each value, at equal distances.

    Attributes:
        spec: `kind`, and `low` and `high`, or `values`.
    """

    spec: Mapping[str, Any]

    @property
    def is_list(self) -> bool:
        """Whether the field takes values of a list, not of a range."""
        return "values" in self.spec

    def place(self, value: Any) -> float | None:
        """In [0, 1] for what the space has; None for a value that is not of the list."""
        if self.is_list:
            texts = [value_text(each) for each in self.spec["values"]]
            text = value_text(value)
            return (texts.index(text) + 0.5) / len(texts) if text in texts else None
        low, high = self.spec["low"], self.spec["high"]
        if high <= low:
            return 0.5
        if self.spec["kind"] == "loguniform":
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))

    def edges(self) -> list[float]:
        """Of cells: one for each value of a list, a few of equal width for a range."""
        count = len(self.spec["values"]) if self.is_list else _NUM_BINS
        return [i / count for i in range(count + 1)]

    def ticks(self, length: int = 16) -> tuple[list[float], list[str]]:
        """Places and texts of round values.

        Args:
            length: of a text, in characters, at the most.
        """
        values = self._tick_values()
        places = [self.place(value) for value in values]
        shown = [(place, value_text(value)) for place, value in zip(places, values, strict=True) if place is not None]
        return [place for place, _ in shown], [shortened(text, length) for _, text in shown]

    def _tick_values(self) -> list[Any]:
        if self.is_list:
            values = list(self.spec["values"])
            return values[:: math.ceil(len(values) / _MAX_TICKS)]
        low, high = self.spec["low"], self.spec["high"]
        if high <= low:
            return [low]
        if self.spec["kind"] == "loguniform":
            locator: Any = LogLocator(subs=(1,) if high / low > 500 else (1, 2, 5))
        else:
            locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=self.spec["kind"] == "integer")
        slack = 1e-9 * (high - low)
        found = [float(value) for value in locator.tick_values(low, high) if low - slack <= value <= high + slack]
        return [round(value) for value in found] if self.spec["kind"] == "integer" else found
