"""Metrics as they are recorded, without Ray."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import ray

from sio_ray.watching import metrics


class Recorded:
    """Sums of counters and values of gauges, by name and labels."""

    def __init__(self) -> None:
        self.values: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)

    def of(self, name: str, **labels: str) -> float:
        """The value of the one series with these labels."""
        series = [value for key, value in self.values[name].items() if labels.items() <= dict(key).items()]
        assert len(series) == 1, (name, labels, self.values[name])
        return series[0]


class Fake:
    """Takes what `ray.util.metrics` would take, and as strictly."""

    def __init__(self, name: str, metric: metrics.Metric, recorded: Recorded) -> None:
        self.tags, self.series = {*metrics.RUN_TAGS, *metric.tags}, recorded.values[name]

    def _key(self, tags: dict[str, str]) -> tuple[tuple[str, str], ...]:
        assert set(tags) == self.tags
        assert all(isinstance(value, str) for value in tags.values())
        return tuple(sorted(tags.items()))

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self.series[self._key(tags)] = self.series.get(self._key(tags), 0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.series[self._key(tags)] = value


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What is recorded from here on."""
    found = Recorded()
    made: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics, "_made", made)
    monkeypatch.setattr(metrics, "_make", lambda name, metric: Fake(name, metric, found))
    return found
