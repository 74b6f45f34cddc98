"""Population-based training: who takes over from whom, and the schedule that comes of it."""

import re

import pytest

from sio_ray.classifier.schedules import ramped
from sio_ray.config import load_config, with_overrides
from sio_ray.errors import ConfigError
from sio_ray.search.optuna_proposals import field_importance
from sio_ray.search.population import Population, lineage
from sio_ray.search.search import Search
from sio_ray.search.trial import TrialResult
from tests.search.search_samples import SPACE, played, result_of, tuned

PBT = ("algorithm=pbt", "num_trials=8", "num_validations=4", "confirm_seeds=[]")


@pytest.fixture(scope="module")
def population():
    config = tuned(*PBT)
    return config, *played(config)


def generation(search, number):
    return [search.trials[index] for index in range(1 + 8 * number, 9 + 8 * number)]


def test_every_generation_goes_from_one_validation_to_the_next(population):
    _, search, results = population
    for number in range(4):
        segments = generation(search, number)
        assert {(segment.first, segment.last) for segment in segments} == {(number, number + 1)}
        assert all((segment.parent is None) == (number == 0) for segment in segments)
    assert len(results) == 1 + 4 * 8


def test_the_worst_quarter_goes_on_from_the_best_and_the_others_as_they_are(population):
    _, search, results = population
    for number in range(1, 4):
        before = generation(search, number - 1)
        ranked = sorted(before, key=lambda segment: results[segment.index].value("near_auroc"))
        worst = {segment.index for segment in ranked[:2]}
        best = {segment.index for segment in ranked[-2:]}
        for mine, segment in zip(before, generation(search, number), strict=True):
            if mine.index in worst:
                assert segment.parent in best
            else:
                assert segment.parent == mine.index
                assert segment.values == mine.values


def test_values_that_are_perturbed_stay_in_the_space(population):
    _, search, _ = population
    changed = 0
    for number in range(1, 4):
        for segment in generation(search, number):
            assert 0.5 <= segment.values["train.real_weight"] <= 0.95
            assert segment.values["train.synthetic_ratio"] in (0.25, 0.5, 1.0)
            changed += segment.values != search.trials[segment.parent].values
    assert changed > 0


def test_a_lineage_becomes_a_schedule_that_a_config_can_say(population):
    config, search, results = population
    best = search.best(results)
    line = lineage(best, search.trials)
    assert [search.trials[index].first for index in line] == [0, 1, 2, 3]
    chosen = with_overrides(config, search.best_values(results))
    assert chosen.train.real_weight == search.trials[best].values["train.real_weight"]
    assert chosen.train.batch_share == config.train.batch_share
    for index, start in zip(line, (0, 100, 200, 300), strict=True):
        for step in (start, start + 99):
            weight = ramped(chosen.train.real_weight, chosen.train.real_weight_ramp, step, 400)
            assert weight == search.trials[index].values["train.real_weight"]


def test_a_schedule_is_spread_over_the_run_that_trains_by_it():
    config = tuned(*PBT, "search_seed=6")
    search, results = played(config)
    line = lineage(search.best(results), search.trials)
    in_trials, spread = (with_overrides(config, search.best_values(results, num_steps)) for num_steps in (None, 1000))
    assert in_trials.train.real_weight_ramp is not None, "otherwise there is nothing to spread"
    assert in_trials == with_overrides(config, search.best_values(results, 400))
    for index, start in zip(line, (0, 250, 500, 750), strict=True):
        for step in (start, start + 249):
            weight = ramped(spread.train.real_weight, spread.train.real_weight_ramp, step, 1000)
            assert weight == search.trials[index].values["train.real_weight"]


def test_a_field_without_a_schedule_is_refused():
    message = "tune.space must be train.real_weight or train.synthetic_ratio, drawn from a range or a choice, with pbt"
    with pytest.raises(ConfigError, match=re.escape(message)):
        Population({"train.momentum": ("uniform", 0.5, 0.9)}, tuned(*PBT).tune)
    with pytest.raises(ConfigError, match=re.escape(message)):
        Population({"train.real_weight": ("grid", [0.5, 0.9])}, tuned(*PBT).tune)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["num_trials=1"], "tune.num_trials must be at least 2 with pbt, got 1"),
        (["num_validations=1"], "tune.num_validations must be at least 2 with pbt, got 1"),
        (["stopping=asha"], "tune.stopping must be none with pbt, got 'asha'"),
        (["objectives=[near_auroc,val_accuracy]"], "tune.objectives must be one with pbt"),
    ],
)
def test_a_config_that_is_no_population_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config("digits", ["tune.algorithm=pbt", *(f"tune.{override}" for override in overrides)])


def test_weights_are_kept_while_somebody_may_continue_from_them(population):
    _, search, results = population
    for number in range(4):
        members = [segment.index for segment in generation(search, number)]
        known = {index: results[index] for index in range(members[-1] + 1)}
        expected = list(range(members[0] - 8, members[0])) if number else None
        found = search.superseded(known, members[-1])
        assert (found if found is None else list(found)) == expected
        if number:
            missing = {index: result for index, result in known.items() if index != members[3]}
            assert search.superseded(missing, members[-1]) is None
            failed = {**known, members[3]: TrialResult("failed")}
            assert search.superseded(failed, members[-1]) is None, "it may be tried again"
    assert search.superseded(results, 0) is None


def test_a_population_whose_members_fail_takes_over_from_those_that_did_not():
    search, _ = played(tuned(*PBT), failing={1, 2})
    assert not {segment.parent for segment in generation(search, 1)} & {1, 2}


@pytest.mark.parametrize("status", ["failed", "diverged"])
@pytest.mark.parametrize("unusable", [{1, 2, 3}, {1, 3, 4, 6, 7}, {2, 3, 4, 5, 6, 7, 8}])
def test_more_members_than_the_worst_quarter_may_fail(status, unusable):
    config = tuned(*PBT)
    search, results = Search(config, SPACE), {}
    while (trial := search.next(results)) is not None:
        results[trial.index] = (
            TrialResult(status, error="it fails") if trial.index in unusable else result_of(trial, config.tune)
        )
    segments = generation(search, 1)
    assert not {segment.parent for segment in segments} & unusable
    assert len(results) == 33


def test_a_failure_keeps_the_weights_of_all_later_generations():
    search, results = played(tuned(*PBT), failing={3})
    assert all(search.superseded(results, index) is None for index in range(9, 33))


def test_a_perturbed_value_never_passes_an_end_by_rounding():
    config, space = tuned(*PBT, "search_seed=1"), {"train.real_weight": ("uniform", 0.99991, 0.99996)}
    search, results = played(config, space)
    values = [trial.values["train.real_weight"] for trial in search.trials.values() if trial.arm == "sio"]
    assert all(0.99991 <= value <= 0.99996 for value in values)
    finals = {index: result for index, result in results.items() if index > 24}
    field_importance(space, search.trials, finals, "near_auroc")
