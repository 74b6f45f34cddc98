"""Playing a search from what is on disk, with trials that train nothing: whose results are taken, and whose weights."""

import random

import pytest

from sio_ray.config import load_config
from sio_ray.search.search import Search
from sio_ray.search.trial import TrialResult
from sio_ray.tune import runner
from sio_ray.tune.learn import Place, TrialRun
from sio_ray.tune.runner import Play
from sio_ray.tune.store import has_state, read_result, save_state, write_error, write_result
from sio_ray.tune.watch import Watch
from tests.search.search_samples import result_of

SPACE = {"train.real_weight": ("uniform", 0.5, 0.95)}


class Sets:
    """As much of `TrialSets` as `Play` looks at."""

    num_real = 861

    def check(self, planned):
        """Nothing to see."""

    def is_drawn(self, planned):
        return True

    def work_for(self, planned):
        return None


class Shelf:
    """As much of the shelf's actor as `Play` looks at."""

    @property
    def clear(self):
        return self

    def remote(self, key):
        """Nothing to forget."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.setattr(runner, "lay_down", lambda shelf, key, work: None)


def population(folder, *overrides):
    options = ["algorithm=pbt", "num_validations=4", "confirm_seeds=[]", "concurrent_trials=3", *overrides]
    return load_config("digits", [f"output_dir={folder}", *(f"tune.{option}" for option in options)])


def run(planned, failing):
    """What a trial's process leaves: a result, and the state that the next segment continues from."""
    folder, trial = str(planned.folder), planned.trial
    if trial.index in failing:
        write_error(folder, "out of memory")
    elif planned.parent is not None and not has_state(planned.parent.folder):
        write_error(folder, "the state of the parent trial is gone")
    else:
        if read_result(folder) is None:
            write_result(folder, result_of(trial, planned.config.tune))
        if trial.arm == "sio":
            save_state(folder, [], {})


def played(config, *, failing=(), failing_again=(), arrival=0):
    """Play a search to its end, as its stage does.

    Args:
        config: of a population.
        failing: indices of trials that fail.
        failing_again: those that fail when they are trained again for their state.
        arrival: seed of the order in which running trials end.

    Returns:
        The `Play`, and the indices of the trials that ran, in order.
    """
    search, order, running, ran = Search(config, SPACE), random.Random(arrival), [], []
    play = Play(config, search, Sets(), Watch(config.tune, search.num_trials), Shelf())
    while not play.is_over() or running:
        name = f"tune-{len(ran)}"
        if (begun := play.start_next(name)) is not None:
            running.append((name, begun["index"]))
            ran.append(begun["index"])
            continue
        if running:
            name, index = running.pop(order.randrange(len(running)))
            run(play.planned[index], failing_again if index in play.results else failing)
            play.ended(name)
    play.delete_states()
    return play, ran


def failed(play):
    return {index: result.error for index, result in play.results.items() if result.status == "failed"}


def states(config):
    return list((config.run_dir / "trials").glob("*/state.safetensors"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["num_trials=4"], ["num_trials=8"]),
        (["num_trials=4"], ["num_trials=6"]),
        (["num_trials=8"], ["num_trials=4"]),
        (["num_trials=4"], ["num_trials=4", "objectives=[val_accuracy]"]),
    ],
)
@pytest.mark.parametrize("arrival", range(2))
def test_another_population_takes_results_and_trains_again_what_it_continues_from(tmp_path, before, after, arrival):
    first, second = population(tmp_path / "both", *before), population(tmp_path / "both", *after)
    played(first)
    assert not states(first)
    play, ran = played(second, arrival=arrival)
    alone, all_of_them = played(population(tmp_path / "alone", *after))
    assert play.results == alone.results
    assert play.num_reused == len(play.results) - len(set(ran)) > 0
    assert len(ran) < len(all_of_them)
    assert not states(second)
    again, none = played(second)
    assert (again.results, none) == (alone.results, [])


@pytest.mark.parametrize(("size", "index"), [(4, 6), (4, 2), (8, 20), (8, 3)])
def test_a_segment_that_failed_once_is_tried_again_by_the_same_command(tmp_path, size, index):
    config = population(tmp_path / "disturbed", f"num_trials={size}")
    play, _ = played(config, failing={index})
    assert failed(play) == {index: "out of memory"}
    assert states(config), "one that failed may be tried again, from the weights of its parent"
    again, ran = played(config)
    assert failed(again) == {}
    assert again.results == played(population(tmp_path / "undisturbed", f"num_trials={size}"))[0].results
    assert len(ran) == len(set(ran)), "nothing is trained again only for its state"


def test_where_nothing_can_be_continued_from_the_next_segments_fail_with_the_reason(tmp_path):
    config = population(tmp_path, "num_trials=2")
    play, ran = played(config, failing={3, 4})
    assert failed(play)[5] == "trial 3, which it continues, failed"
    assert not {5, 6, 7, 8} & set(ran)
    again, ran = played(config)
    assert failed(again) == {}
    assert ran == [3, 4, 5, 6, 7, 8]


def test_a_segment_whose_lineage_cannot_be_trained_again_fails_with_the_reason(tmp_path):
    played(population(tmp_path, "num_trials=4"))
    config = population(tmp_path, "num_trials=8")
    play, ran = played(config, failing_again=set(range(1, 33)))
    lost = failed(play)
    assert any("whose weights it needs, could not be trained again: out of memory" in error for error in lost.values())
    assert not set(lost) & set(ran), "no process begins that could not go on"
    assert failed(played(config)[0]) == {}


def test_a_result_that_others_were_decided_by_is_never_written_anew(tmp_path, monkeypatch):
    config = population(tmp_path, "num_trials=2")
    play, _ = played(config)
    planned = play.planned[1]
    before = read_result(planned.folder)

    class Work:
        folder, keeps_state = str(planned.folder), True

    monkeypatch.setattr(TrialRun, "_learn", lambda self, start_s: "done")
    TrialRun(Work(), Place("cpu"), lambda point: None).run()
    assert read_result(planned.folder) == before != TrialResult("done")
