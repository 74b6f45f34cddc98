"""The whole search as one function of its results: baseline, proposals, stopping, and the best once more."""

from __future__ import annotations

from collections.abc import Mapping

from sio_ray.config import Config
from sio_ray.search.goal import Goal
from sio_ray.search.population import Population, lineage, schedule_values
from sio_ray.search.proposals import make_proposer
from sio_ray.search.space import Space
from sio_ray.search.stopping import floors
from sio_ray.search.trial import Floors, Trial, TrialResult


class Search:
    """Decides what to try, in order, and what the best is.

    Every decision reads the results of certain earlier trials, waits for these, and reads no other. So the search is
    the same on any number of workers, in any timing, and after any number of kills: it is replayed from the results.

    Args:
        config: with the section `tune`.
        space: of the values.

    Attributes:
        trials: index to trial, of all that were decided on so far.
        goal: objectives and constraint.
        num_searched: trials of the search, the baseline among them, before its best is confirmed.
        learns: whether decisions read results, so that not all trials can run at once.
    """

    def __init__(self, config: Config, space: Space) -> None:
        self._config, self._section = config, config.tune
        self.goal = Goal.of(config.tune)
        self.trials: dict[int, Trial] = {}
        self._population = Population(space, config.tune) if config.tune.algorithm == "pbt" else None
        self._proposer = None if self._population else make_proposer(config.tune, space)
        if self._population is not None:
            self.num_searched = 1 + self._population.num_segments
        else:
            assert self._proposer is not None
            self.num_searched = 1 + self._proposer.num_trials
        self.learns = self._proposer is None or self._proposer.learns or config.tune.stopping != "none"

    @property
    def num_trials(self) -> int:
        """All trials, as far as is known: those that confirm are there only if something beat the baseline."""
        return max(self.num_searched + (2 if self._section.confirm_seeds else 0), len(self.trials))

    def next(self, results: Mapping[int, TrialResult]) -> Trial | None:
        """The next trial; None if it waits for results, or if there is no other (`is_over`).

        Args:
            results: index to result, of all trials that have ended.
        """
        index = len(self.trials)
        needed = self._needed(index)
        if self.is_over(results) or any(other not in results for other in needed):
            return None
        known = {other: results[other] for other in needed}
        self.trials[index] = trial = self._decide(index, known)
        return trial

    def is_over(self, results: Mapping[int, TrialResult]) -> bool:
        """Whether all trials were decided on."""
        index = len(self.trials)
        if index < self.num_searched:
            return False
        if not self._section.confirm_seeds or index == self.num_searched + 2:
            return True
        searched = range(self.num_searched)
        return all(other in results for other in searched) and self.best(results) == 0

    def best(self, results: Mapping[int, TrialResult]) -> int:
        """The index of the best trial of the search; 0 if none beats the baseline."""
        among = range(1, self.num_searched)
        if self._population is not None:
            among = self._population.indices(self._population.num_generations - 1)
        return self.goal.best(results, among)

    def best_values(self, results: Mapping[int, TrialResult], num_steps: int | None = None) -> dict[str, object]:
        """What the best changes in the config: dotted fields; for a population a schedule.

        Args:
            results: index to result, of the search.
            num_steps: of the run that trains by them, over which a schedule is spread; those of a trial if not given.
        """
        best = self.best(results)
        if best == 0:
            return {"train.arms": ["baseline"]}
        if self._population is None:
            return dict(self.trials[best].values)
        line = [self.trials[index] for index in lineage(best, self.trials)]
        ends = [results[segment.index].curve[-1].step for segment in line]
        starts = [0, *(round(end * (num_steps or ends[-1]) / ends[-1]) for end in ends[:-1])]
        return schedule_values(self._config, line, starts)

    def generation_of(self, index: int) -> int | None:
        """Of a segment of a population; None of other trials."""
        if self._population is None or not 0 < index < self.num_searched:
            return None
        return self._population.generation_of(index)

    def superseded(self, results: Mapping[int, TrialResult], index: int) -> range | None:
        """The generation whose weights nobody needs any more once this trial has ended; None if there is none.

        A segment that failed may be tried again, from the weights of its parent; what then comes of it may give later
        generations other parents.
        """
        generation = self.generation_of(index)
        if self._population is None or not generation:
            return None
        so_far = range(1, self._population.indices(generation).stop)
        is_whole = all(other in results and results[other].status != "failed" for other in so_far)
        return self._population.indices(generation - 1) if is_whole else None

    def _needed(self, index: int) -> range:
        """The trials whose results a decision reads."""
        if index >= self.num_searched:
            return range(self.num_searched)
        if self._population is not None:
            generation = self._population.generation_of(index) if index else 0
            return self._population.indices(generation - 1) if generation else range(0)
        return range(max(0, index - self._section.lookahead + 1)) if self.learns else range(0)

    def _decide(self, index: int, known: Mapping[int, TrialResult]) -> Trial:
        section = self._section
        last = section.num_validations
        if index == 0:
            return Trial(index, "baseline", {}, section.seeds, last)
        if index >= self.num_searched:
            return self._confirm(index, known)
        if self._population is not None:
            member = self._population.propose(index, self.trials, known)
            generation = self._population.generation_of(index)
            return Trial(
                index, "sio", member.values, section.seeds, generation + 1, first=generation, parent=member.parent
            )
        assert self._proposer is not None
        values = self._proposer.propose(index, known)
        rule = floors(section, [known[other] for other in sorted(known)]) if known else Floors()
        return Trial(index, "sio", values, section.seeds, last, floors=rule)

    def _confirm(self, index: int, known: Mapping[int, TrialResult]) -> Trial:
        """The baseline, then the best, with fresh seeds."""
        section = self._section
        if index == self.num_searched:
            return Trial(index, "baseline", {}, section.confirm_seeds, section.num_validations, phase="confirm")
        values = self.best_values(known)
        return Trial(index, "sio", values, section.confirm_seeds, section.num_validations, phase="confirm")
