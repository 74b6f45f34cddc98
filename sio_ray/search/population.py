"""Population-based training: its worst members take over weights and values of the best, which finds schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sio_ray.config import Config, TuneConfig
from sio_ray.errors import ConfigError
from sio_ray.search.goal import Goal
from sio_ray.search.space import RANGES, Space, draw, within
from sio_ray.search.trial import Trial, TrialResult
from sio_ray.seeding import numpy_generator

#: Fields that may change on the way, and that a config can therefore say a schedule of.
SCHEDULED_FIELDS = ("train.real_weight", "train.synthetic_ratio")

#: Share of the population that is replaced, and by which; what a number is multiplied by; how often one is drawn anew.
_QUANTILE, _FACTORS, _REDRAW = 0.25, (0.8, 1.2), 0.25


@dataclass(frozen=True)
class Member:
    """What a population proposes for one segment of a run, from one validation to the next.

    Attributes:
        values: dotted field to value.
        parent: index of the segment whose weights go on; None in the first generation.
    """

    values: dict[str, Any]
    parent: int | None


class Population:
    """A population of runs, in generations from one validation to the next, all of which wait for each other.

    A segment of a run is a trial of its own: index 1 + generation * size + member. A member of the worst quarter goes
    on from one of the best quarter, with its values perturbed; the others go on as they are. The search reads the
    results of one generation for the next, so timing decides nothing. One without a usable network is always replaced,
    and never gone on from, unless the whole generation has none. A constraint on ID accuracy binds at the end alone, as
    the baseline's is known there.

    Args:
        space: of fields that a config can say a schedule of.
        section: of the config; `num_trials` members, `num_validations` generations.

    Raises:
        ConfigError: the space has another field.

    Source: Jaderberg et al., 2017, arXiv:1711.09846; numbers as Ray's PopulationBasedTraining has them.
    """

    def __init__(self, space: Space, section: TuneConfig) -> None:
        for key, entry in space.items():
            if key not in SCHEDULED_FIELDS or entry[0] == "grid":
                rule = f"{' or '.join(SCHEDULED_FIELDS)}, drawn from a range or a choice, with pbt"
                raise ConfigError("tune.space", rule, key, "drop it, or use tune.algorithm=optuna")
        self._space, self._goal, self._seed = space, Goal.of(section), section.search_seed
        self.size, self.num_generations = section.num_trials, section.num_validations

    @property
    def num_segments(self) -> int:
        """Trials of the whole search, beside the baseline."""
        return self.size * self.num_generations

    def generation_of(self, index: int) -> int:
        """Of a segment, from 0."""
        return (index - 1) // self.size

    def indices(self, generation: int) -> range:
        """Those of a generation."""
        return range(1 + generation * self.size, 1 + (generation + 1) * self.size)

    def propose(self, index: int, trials: Mapping[int, Trial], results: Mapping[int, TrialResult]) -> Member:
        """A segment, by what the generation before it gave."""
        generation, number = self.generation_of(index), (index - 1) % self.size
        rng = numpy_generator("population", self._seed, generation, number)
        if generation == 0:
            return Member({key: draw(entry, rng) for key, entry in self._space.items()}, None)
        before = list(self.indices(generation - 1))
        worths = {
            other: worth for other in before if (worth := results[other].value(self._goal.objectives[0])) is not None
        }
        ranked = sorted(worths, key=lambda other: (worths[other], -other))
        quarter = max(1, int(self.size * _QUANTILE))
        num_worst = max(0, quarter - (self.size - len(ranked)))  # those without a network are the worst
        mine = before[number]
        if mine in ranked[num_worst:] or not ranked:
            return Member(dict(trials[mine].values), mine)
        source = ranked[-1 - int(rng.integers(min(quarter, len(ranked))))]
        return Member({key: self._perturb(key, trials[source].values[key], rng) for key in self._space}, source)

    def _perturb(self, key: str, value: Any, rng: np.random.Generator) -> Any:
        entry = self._space[key]
        if rng.random() < _REDRAW:
            return draw(entry, rng)
        if entry[0] in RANGES:
            moved = value * _FACTORS[int(rng.integers(2))]
            return round(min(max(moved, entry[1]), entry[2])) if entry[0] == "integer" else within(entry, moved)
        position = entry[1].index(value) + (-1, 1)[int(rng.integers(2))]
        return entry[1][min(max(position, 0), len(entry[1]) - 1)]


def lineage(index: int, trials: Mapping[int, Trial]) -> list[int]:
    """The segments that led to one, the first first, itself last."""
    found = [index]
    while (parent := trials[found[0]].parent) is not None:
        found.insert(0, parent)
    return found


def schedule_values(config: Config, segments: Sequence[Trial], steps: Sequence[int]) -> dict[str, Any]:
    """What a config must change to train by the schedule of a lineage from the start.

    Args:
        config: of the search.
        segments: of the lineage, in order.
        steps: at which each of them began.
    """
    found: dict[str, Any] = {"train.real_batch_share": config.train.batch_share}
    for key in segments[0].values:
        values = [segment.values[key] for segment in segments]
        jumps = [
            [step, value] for step, value, before in zip(steps[1:], values[1:], values, strict=False) if value != before
        ]
        found[key] = values[-1]
        if jumps:
            found[f"{key}_ramp"] = {"start": values[0], "shape": "steps", "jumps": jumps}
    return found
