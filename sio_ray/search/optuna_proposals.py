"""Optuna's TPE as a proposer, for one objective with a constraint or for two, and its importance of fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from sio_ray.config import TuneConfig
from sio_ray.search.goal import ACCURACY, Goal
from sio_ray.search.space import Space, grid_points, within
from sio_ray.search.trial import Trial, TrialResult
from sio_ray.seeding import derive_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every trial otherwise

#: Random trials before TPE has something to go by.
_NUM_STARTUP = 6

#: Fewer trials say nothing about fields.
_MIN_FOR_IMPORTANCE = 4


class OptunaProposals:
    """TPE, asked and told in the order of the trials, never of time, so that it proposes the same every time.

    Ray's OptunaSearch is told results as they arrive; two runs of a search with the same seed then differ, and one that
    was killed cannot go on as it would have. Trials on the way count as bad ones (constant liar), so that side by side
    ones do not crowd.

    Args:
        space: what to draw from; fields of grids are gone through in turn, and TPE proposes the others.
        section: of the config.
    """

    learns = True

    def __init__(self, space: Space, section: TuneConfig) -> None:
        self._space, self._goal = space, Goal.of(section)
        self._is_multi = len(section.objectives) > 1
        self.num_trials = section.num_trials
        self._points = grid_points(space)
        self._distributions = {key: _distribution(entry) for key, entry in space.items() if entry[0] != "grid"}
        sampler = optuna.samplers.TPESampler(
            seed=derive_seed("optuna", section.search_seed) % 2**32, n_startup_trials=_NUM_STARTUP, constant_liar=True
        )
        self._study = optuna.create_study(directions=["maximize"] * len(section.objectives), sampler=sampler)
        self._asked: dict[int, optuna.Trial] = {}

    def propose(self, index: int, known: Mapping[int, TrialResult]) -> dict[str, Any]:
        """See `Proposer`."""
        for earlier in sorted(self._asked.keys() & known.keys()):
            self._tell(self._asked.pop(earlier), known[earlier], known[0])
        trial = self._asked[index] = self._study.ask(self._distributions)
        values = {key: _value(self._space[key], trial.params[key]) for key in self._distributions}
        values |= self._points[(index - 1) % len(self._points)]
        return {key: values[key] for key in self._space}

    def _tell(self, trial: optuna.Trial, result: TrialResult, baseline: TrialResult) -> None:
        values = [value for metric in self._goal.objectives if (value := result.value(metric)) is not None]
        if not values:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        least, accuracy = self._goal.least_accuracy(baseline), result.value(ACCURACY)
        if least is not None and accuracy is not None:
            trial.set_constraint("id_accuracy", least - accuracy)
        if self._is_multi:  # Optuna takes no points on the way for two objectives
            self._study.tell(trial, values)
            return
        for point in result.curve:
            trial.report(point.mean(self._goal.objectives[0]), point.step)
        self._study.tell(trial, *([None, TrialState.PRUNED] if result.status == "stopped" else [values[0]]))


def field_importance(
    space: Space, trials: Mapping[int, Trial], results: Mapping[int, TrialResult], objective: str
) -> dict[str, float] | None:
    """How much of the objective's variance each field explains, by functional ANOVA; None of too few trials.

    Args:
        space: of the search.
        trials: index to trial.
        results: index to result, of the search; only trials of the SIO arm that ran to their end count.
        objective: metric.

    Returns:
        Field to share; the largest first, all sum to 1.

    Source: Hutter et al., ICML 2014, as Optuna has it.
    """
    distributions = {key: _distribution(entry) for key, entry in space.items()}
    study = optuna.create_study(direction="maximize")
    seen = set()
    for index, result in sorted(results.items()):
        trial, value = trials[index], result.value(objective)
        if trial.arm != "sio" or result.status != "done" or value is None:
            continue
        params = {key: _param(space[key], trial.values[key]) for key in space}
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
        seen.add(value)
    if len(study.trials) < _MIN_FOR_IMPORTANCE or len(seen) < 2:
        return None
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    total = sum(found.values())
    return {key: float(share / total) for key, share in found.items()} if total > 0 else None


def _distribution(entry: tuple[Any, ...]) -> BaseDistribution:
    match entry:
        case ("uniform", low, high):
            return FloatDistribution(low, high)
        case ("loguniform", low, high):
            return FloatDistribution(low, high, log=True)
        case ("integer", low, high):
            return IntDistribution(low, high)
        case (_, values):
            return CategoricalDistribution(list(range(len(values))))  # by position, as a value may be a list
    raise AssertionError(f"unchecked entry {entry!r}")


def _value(entry: tuple[Any, ...], param: Any) -> Any:
    match entry[0]:
        case "uniform" | "loguniform":
            return within(entry, param)
        case "integer":
            return param
    return entry[1][param]


def _param(entry: tuple[Any, ...], value: Any) -> Any:
    return entry[1].index(value) if entry[0] in ("choice", "grid") else value
