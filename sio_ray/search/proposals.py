"""What to try next: the grid, random draws, and Optuna's TPE, each a function of the results that it may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sio_ray.config import TuneConfig
from sio_ray.search.space import Space, draw, grid_points, is_grid, num_points
from sio_ray.search.trial import TrialResult
from sio_ray.seeding import numpy_generator


class Proposer(Protocol):
    """Gives the values of trials 1, 2, ... in order; the baseline, 0, is nobody's proposal.

    Attributes:
        num_trials: how many there will be.
        learns: whether a proposal reads results, those of the trials that `Search` shows to it.
    """

    num_trials: int
    learns: bool

    def propose(self, index: int, known: Mapping[int, TrialResult]) -> dict[str, Any]:
        """The values of trial `index`, asked for once, after those before it.

        Args:
            index: from 1.
            known: results that this decision may read, the baseline's among them; the same ones every time.
        """


class ListedProposals:
    """Values that depend on nothing but the seed: all points of a grid, or draws.

    Trial i depends on the seed and on i alone, so a longer search begins with the trials of a shorter one.

    Args:
        space: what to draw from.
        num_trials: how many, if the space draws anything; a pure grid gives each point once.
        seed: of the draws.
    """

    learns = False

    def __init__(self, space: Space, num_trials: int, seed: int) -> None:
        self._space, self._seed = space, seed
        self._points = grid_points(space)
        self.num_trials = num_points(space, num_trials)

    def propose(self, index: int, known: Mapping[int, TrialResult]) -> dict[str, Any]:
        """See `Proposer`."""
        rng = numpy_generator("trial", self._seed, index - 1)
        drawn = {key: draw(entry, rng) for key, entry in self._space.items() if entry[0] != "grid"}
        values = {**drawn, **self._points[(index - 1) % len(self._points)]}
        return {key: values[key] for key in self._space}


def make_proposer(section: TuneConfig, space: Space) -> Proposer:
    """The proposer that a config asks for; a pure grid has no choice."""
    if section.algorithm == "random" or (is_grid(space) and section.algorithm == "optuna"):
        return ListedProposals(space, section.num_trials, section.search_seed)
    from sio_ray.search.optuna_proposals import OptunaProposals  # it takes a while to import

    return OptunaProposals(space, section)
