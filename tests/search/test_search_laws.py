"""Laws of the search: timing, number of workers and kills decide nothing, whatever the algorithm."""

import pytest

from sio_ray.search.search import Search
from sio_ray.search.trial import TrialResult
from tests.search.search_samples import SPACE, played, result_of, tuned

KINDS = {
    "random": ("num_trials=9",),
    "optuna": ("algorithm=optuna", "num_trials=14"),
    "two objectives": ("algorithm=optuna", "num_trials=12", "objectives=[near_auroc,val_accuracy]"),
    "constrained": ("algorithm=optuna", "num_trials=14", "max_accuracy_drop=0.005"),
    "asha": ("num_trials=14", "stopping=asha", "num_validations=9"),
    "median": ("num_trials=14", "stopping=median", "num_validations=6", "seeds=[1,2]"),
    "optuna and asha": ("algorithm=optuna", "num_trials=14", "stopping=asha", "num_validations=9"),
    "pbt": ("algorithm=pbt", "num_trials=8", "num_validations=4"),
}
GRID = {"train.real_weight": ("grid", [0.9, 0.8, 0.5]), "train.synthetic_ratio": ("grid", [0.5, 1.0])}


@pytest.mark.parametrize("kind", KINDS)
def test_timing_and_the_number_of_workers_change_nothing(kind):
    config = tuned(*KINDS[kind])
    search, results = played(config, arrival=0, concurrent=4)
    for arrival, concurrent in ((1, 4), (2, 3), (3, 1), (4, 100)):
        other, others = played(config, arrival=arrival, concurrent=concurrent)
        assert other.trials == search.trials
        assert others == results


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_is_replayed_from_whatever_results_are_left(kind):
    config = tuned(*KINDS[kind])
    search, results = played(config)
    for left in (range(0), range(1), range(5), [0, 2, 3, 7], range(len(results))):
        other, others = played(config, arrival=9, results={index: results[index] for index in left})
        assert (other.trials, others) == (search.trials, results)


@pytest.mark.parametrize("kind", ["random", "asha", "optuna", "pbt"])
def test_the_trials_that_ran_to_the_end_hold_the_best(kind):
    config = tuned(*KINDS[kind])
    search, results = played(config)
    best = search.best(results)
    finals = {
        index: result.value("near_auroc")
        for index, result in results.items()
        if search.trials[index].phase == "search" and search.trials[index].last == config.tune.num_validations
        if result.status == "done"
    }
    assert finals[best] == max(finals.values())
    assert best != 0


def test_the_baseline_comes_first_and_is_never_stopped():
    search, results = played(tuned(*KINDS["asha"]))
    assert (search.trials[0].arm, search.trials[0].values) == ("baseline", {})
    assert results[0].status == "done"
    assert len(results[0].curve) == 9


def test_the_best_is_confirmed_by_fresh_seeds_beside_the_baseline():
    config = tuned("num_trials=5", "seeds=[1,2]", "confirm_seeds=[7,8,9]")
    search, results = played(config)
    baseline, best = search.trials[6], search.trials[7]
    assert (baseline.phase, baseline.arm, baseline.seeds) == ("confirm", "baseline", (7, 8, 9))
    assert (best.phase, best.arm, best.seeds) == ("confirm", "sio", (7, 8, 9))
    assert best.values == search.trials[search.best(results)].values == search.best_values(results)
    assert len(results) == 8


def test_nothing_is_confirmed_where_nothing_beats_the_baseline_or_nobody_asks():
    config = tuned("num_trials=3")
    good = {"train.real_weight": ("grid", [0.8])}
    bad = {"train.real_weight": ("grid", [0.1, 0.2])}
    assert len(played(config, good)[1]) == 4
    search, results = played(config, bad)
    assert search.best(results) == 0
    assert search.best_values(results) == {"train.arms": ["baseline"]}
    assert len(results) == 3
    assert len(played(tuned("num_trials=3", "confirm_seeds=[]"))[1]) == 4


def test_a_pure_grid_tries_every_point_once_whatever_the_algorithm():
    for algorithm in ("random", "optuna"):
        search, _ = played(tuned(f"algorithm={algorithm}", "num_trials=1"), GRID)
        points = [tuple(trial.values.values()) for trial in search.trials.values() if trial.phase == "search"][1:]
        assert sorted(points) == [(0.5, 0.5), (0.5, 1.0), (0.8, 0.5), (0.8, 1.0), (0.9, 0.5), (0.9, 1.0)]


def test_a_longer_search_begins_with_a_shorter_one():
    for kind in ("random", "optuna", "asha"):
        options = [option for option in KINDS[kind] if not option.startswith("num_trials")]
        short, _ = played(tuned(*options, "num_trials=8"))
        long, _ = played(tuned(*options, "num_trials=15"))
        assert [long.trials[index] for index in range(9)] == [short.trials[index] for index in range(9)]
        assert played(tuned(*options, "num_trials=8", "search_seed=1"))[0].trials[1] != short.trials[1]


def test_failed_trials_are_passed_over_by_every_algorithm():
    for kind, options in KINDS.items():
        search, results = played(tuned(*options), failing={2, 3})
        assert results[2].status == "failed", kind
        assert search.best(results) not in (2, 3), kind
        assert len(results) == search.num_trials, kind


def test_a_learning_search_keeps_as_many_on_the_way_as_it_looks_ahead():
    for kind, lookahead in (("optuna", 4), ("asha", 2)):
        config = tuned(*KINDS[kind], f"lookahead={lookahead}")
        search, running = Search(config, SPACE), []
        while (trial := search.next({})) is not None:
            running.append(trial)
        assert len(running) == lookahead
        results = {0: result_of(running[0], config.tune)}
        assert search.next(results) is not None
        assert search.next(results) is None


def test_the_constraint_rules_out_what_costs_accuracy():
    # The formula takes 2 points of accuracy for a ratio of 1, half a point for 0.25.
    config = tuned("num_trials=40", "max_accuracy_drop=0.0051")
    search, results = played(config)
    assert search.trials[search.best(results)].values["train.synthetic_ratio"] == 0.25
    free, others = played(tuned("num_trials=40"))
    assert free.trials[free.best(others)].values["train.synthetic_ratio"] != 0.25


def test_optuna_finds_better_places_than_chance():
    def mean_of_late(kind):
        _, results = played(tuned(*kind, "num_trials=40", "confirm_seeds=[]"))
        late = [results[index].value("near_auroc") for index in range(21, 41)]
        return sum(late) / len(late)

    assert mean_of_late(("algorithm=optuna",)) > mean_of_late(("algorithm=random",))


def test_a_search_waits_for_the_results_that_it_reads_and_no_others():
    config = tuned(*KINDS["pbt"])
    search, results = Search(config, SPACE), {}
    trials = []
    while (trial := search.next(results)) is not None:
        trials.append(trial)
    assert len(trials) == 9, "the baseline and the first generation"
    for trial in trials[1:]:
        results[trial.index] = result_of(trial, config.tune)
    assert search.next(results) is not None, "the next generation does not wait for the baseline"


def test_a_diverged_baseline_leaves_the_others_to_compare():
    config = tuned("num_trials=3")
    search = Search(config, SPACE)
    results = {0: TrialResult("diverged", error="the loss of step 3 is nan")}
    while (trial := search.next(results)) is not None:
        results[trial.index] = result_of(trial, config.tune)
    assert search.best(results) in (1, 2, 3)
