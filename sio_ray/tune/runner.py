"""The Ray Tune edge: plays a search through Tune, trial by trial, and takes from disk what was done before."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray.tune.logger import TBXLoggerCallback
from ray.tune.search import Searcher

from sio_ray.config import Config
from sio_ray.errors import ResourceError, SioRayError
from sio_ray.imageset.storage import Folder
from sio_ray.search.search import Search
from sio_ray.search.trial import Trial, TrialResult
from sio_ray.training.feeds import cpus_of_feed
from sio_ray.tune.process import run_trial
from sio_ray.tune.sets import TrialSets
from sio_ray.tune.shelf import lay_down, open_shelf
from sio_ray.tune.store import ERROR_NAME, delete_state, has_state, read_error, read_result
from sio_ray.tune.watch import Watch
from sio_ray.tune.work import PlannedTrial

#: Of the search's folder: what Tune writes for TensorBoard.
TENSORBOARD_FOLDER = "tensorboard"

_DIED = "its process died without a word, as it does when it is killed or runs out of memory"


class Play:
    """A search in the making: which trials run, which have ended, and what came of them.

    All that it knows it could know again from the results on disk, so it is kept nowhere.

    Args:
        config: of the search.
        search: decides what to try.
        sets: image sets of the trials.
        watch: shows how it goes.
        shelf: where trials find their work.

    Attributes:
        planned: index to trial with its config.
        results: index to result, of the trials that have ended.
        num_reused: trials whose result was there already.
        overheads_s: of each trial that ran, seconds that were neither optimiser steps nor judging.
        error: what the search cannot go on after.
    """

    def __init__(self, config: Config, search: Search, sets: TrialSets, watch: Watch, shelf: Any) -> None:
        self._config, self._search, self._sets, self._watch = config, search, sets, watch
        self.planned: dict[int, PlannedTrial] = {}
        self.results: dict[int, TrialResult] = {}
        self.num_reused = 0
        self.overheads_s: list[float] = []
        self.error: BaseException | None = None
        self._shelf = shelf
        self._waiting: deque[Trial] = deque()
        self._running: dict[str, tuple[int, float]] = {}
        self._lost: dict[int, str] = {}

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Tune pickles all that it is given, to restore a search from; this one is played again from its results."""
        return object, ()

    def draw_ahead(self) -> None:
        """Draw the synthetic sets of all trials that are known already, while no trial needs the cluster.

        Raises:
            SioRayError: what drawing ended with.
        """
        while (trial := self._search.next(self.results)) is not None:
            self._waiting.append(trial)
            self._plan(trial)
            self._sets.draw(self.planned[trial.index])

    def start_next(self, tune_id: str) -> dict[str, Any] | None:
        """Start the next trial under Tune's name for it; its index and key, or None if there is none to start now."""
        while (trial := self._peek()) is not None:
            if (found := read_result(self.planned[trial.index].folder)) is not None:
                self.num_reused += 1
            else:
                first = self._first_to_train(trial)
                found = self._orphaned(trial, first)
            if found is not None:
                self._waiting.popleft()
                self._end(trial.index, found)
                continue
            planned = self.planned[first.index]
            if not self._may_start(planned):
                return None
            if first is trial:
                self._waiting.popleft()
            lay_down(self._shelf, planned.key, self._sets.work_for(planned))
            Folder(str(planned.folder)).delete(ERROR_NAME)
            self._running[tune_id] = (first.index, time.monotonic())
            self._watch.start(first)
            return {"index": first.index, "key": planned.key}
        return None

    def is_over(self) -> bool:
        """Whether no trial will start any more."""
        return self.error is not None or (not self._waiting and self._search.is_over(self.results))

    def validated(self, tune_id: str, figures: dict[str, Any]) -> None:
        """A trial has reached a validation."""
        if tune_id in self._running and "step" in figures:
            self._watch.validated(self._running[tune_id][0], figures)

    def ended(self, tune_id: str) -> None:
        """A trial's process is done with it, or has failed as often as it may."""
        index, start_s = self._running.pop(tune_id)
        planned = self.planned[index]
        if index in self.results:
            self._trained_again(index)
            return
        result = read_result(planned.folder)
        if result is None:
            result = TrialResult("failed", error=read_error(planned.folder) or _DIED)
        else:
            self.overheads_s.append(time.monotonic() - start_s - result.train_s - result.judge_s)
        self._shelf.clear.remote(planned.key)
        self._end(index, result)

    def delete_states(self) -> None:
        """Forget what segments of a population left for others to continue from, unless one may be tried again."""
        if all(result.status != "failed" for result in self.results.values()):
            self._delete_states(self.planned)

    def _delete_states(self, indices: Iterable[int]) -> None:
        for index in indices:
            delete_state(str(self.planned[index].folder))

    def _peek(self) -> Trial | None:
        """The trial whose turn it is; None if that waits for results."""
        if not self._waiting:
            trial = self._search.next(self.results)
            if trial is None:
                return None
            self._waiting.append(trial)
            self._plan(trial)
        return self._waiting[0]

    def _first_to_train(self, trial: Trial) -> Trial:
        """What a trial without a result waits for: the first of its lineage whose successor lacks its state, or itself.

        A segment's result stays when its state is gone, as it is after another search of the same experiment.
        """
        while trial.parent is not None and not has_state(self.planned[trial.parent].folder):
            trial = self._search.trials[trial.parent]
        return trial

    def _orphaned(self, trial: Trial, first: Trial) -> TrialResult | None:
        """The result of a trial that nothing can be continued from; None if it can be trained."""
        if trial.parent is None:
            return None
        status = self.results[trial.parent].status
        if status in ("failed", "diverged"):
            return TrialResult("failed", error=f"trial {trial.parent}, which it continues, {status}")
        if first.index in self._lost:
            why = f"trial {first.index}, whose weights it needs, could not be trained again: {self._lost[first.index]}"
            return TrialResult("failed", error=why)
        return None

    def _trained_again(self, index: int) -> None:
        """A trial whose result was there has run once more for its state."""
        folder, result = self.planned[index].folder, self.results[index]
        if has_state(folder):
            self.num_reused -= 1
        else:
            self._lost[index] = read_error(folder) or _DIED
            result = TrialResult("failed", error=self._lost[index])
        self._shelf.clear.remote(self.planned[index].key)
        self._watch.end(self._search.trials[index], result, self._search.num_trials)

    def _plan(self, trial: Trial) -> None:
        parent = self.planned[trial.parent] if trial.parent is not None else None
        self.planned[trial.index] = PlannedTrial.of(trial, self._config, self._sets.num_real, parent)
        self._sets.check(self.planned[trial.index])

    def _may_start(self, planned: PlannedTrial) -> bool:
        running = [self.planned[index] for index, _ in self._running.values()]
        if len(running) >= self._config.tune.concurrent_trials:
            return False
        # Two trials with the same networks, judged in two ways: the second takes what the first has trained.
        if any(other.training_key == planned.training_key for other in running):
            return False
        if self._sets.is_drawn(planned):
            return True
        if not running:  # as trials hold the cores that drawing needs
            self._sets.draw(planned)
        return not running

    def _end(self, index: int, result: TrialResult) -> None:
        self.results[index] = result
        before = self._search.superseded(self.results, index)
        if before is not None:
            now = range(before.stop, before.stop + len(before))
            # One that was taken from disk without its state may have to be trained again, from the states before it.
            if all(has_state(self.planned[other].folder) for other in now):
                self._delete_states(before)
        self._watch.end(self._search.trials[index], result, self._search.num_trials)


class PlaySearcher(Searcher):
    """What Tune asks for trials; it saves nothing, as a search is played again from its results."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self._play = play

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, by its index and key."""
        started = None
        try:
            if not self._play.is_over():
                started = self._play.start_next(trial_id)
        except SioRayError as error:  # Tune would bury it in a traceback of its own
            self._play.error = error
        if started is not None:
            return started
        return Searcher.FINISHED if self._play.is_over() else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A validation."""
        self._play.validated(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial, or of its last attempt."""
        self._play.ended(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def play(config: Config, search: Search, sets: TrialSets, watch: Watch, folder: Path) -> Play:
    """Run all trials of a search that have no result yet.

    Args:
        config: of the search.
        search: decides what to try.
        sets: image sets of the trials.
        watch: shows how it goes.
        folder: of the search.

    Returns:
        The search, played to its end.

    Raises:
        SioRayError: what planning a trial, or drawing a synthetic set for it, ended with.
        ResourceError: the driver is a Ray client.
    """
    if ray.util.client.ray.is_connected():
        raise ResourceError(
            "cluster.address must be one that the driver of a search joins, got a ray:// client; "
            "submit jobs/tune.py to the cluster instead."
        )
    with open_shelf() as shelf:
        made = Play(config, search, sets, watch, shelf)
        if not search.learns:
            made.draw_ahead()
        _play_through_tune(config, made, sets, shelf, folder, keeps_actors=not (sets.draws and search.learns))
    if made.error is not None:
        raise made.error
    _keep_events(folder / TENSORBOARD_FOLDER)
    return made


def _play_through_tune(
    config: Config, made: Play, sets: TrialSets, shelf: Any, folder: Path, *, keeps_actors: bool
) -> None:
    section = config.tune
    trainable = ray.tune.with_parameters(
        run_trial,
        shelf=shelf,
        cpus=section.cpus_per_trial,
        cpus_reserved=cpus_per_worker(config, sets),
        gpus=section.gpus_per_trial,
        workers=section.workers_per_trial,
    )
    with _quiet_tune():
        ray.tune.Tuner(
            ray.tune.with_resources(trainable, trial_resources(config, sets)),
            tune_config=ray.tune.TuneConfig(
                search_alg=PlaySearcher(made),
                num_samples=-1,
                # An actor that is kept for the next trial keeps its cores, which drawing a set between two needs.
                reuse_actors=keeps_actors,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=ray.tune.RunConfig(
                name=TENSORBOARD_FOLDER,
                storage_path=str(folder),
                verbose=0,
                callbacks=[TBXLoggerCallback()],
                failure_config=ray.tune.FailureConfig(max_failures=section.max_failures_per_trial),
            ),
        ).fit()


def trial_resources(config: Config, sets: TrialSets) -> dict[str, float]:
    """What Tune reserves for a trial.

    A trial with several workers reserves nothing itself: its Ray Train run asks for all of them in one placement group,
    which is placed whole or not at all. If the trial held some of them, two trials could wait for each other.
    """
    section = config.tune
    if section.workers_per_trial > 1:
        return {"CPU": 0, "memory": 1}  # Tune refuses a trial of nothing
    return {"CPU": cpus_per_worker(config, sets), "GPU": section.gpus_per_trial}


def cpus_per_worker(config: Config, sets: TrialSets) -> int:
    """Cores of each worker of a trial, those of its feed among them."""
    return config.tune.cpus_per_trial + cpus_of_feed(config.train, sets.base_sources())


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['index']:04d}"


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Keep Tune's own files and words to what is asked for."""
    # Result files of every format; trials write their results themselves.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Its newer output prints to standard output even where it is told to say nothing.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Its own state on disk, which is not read again, is written seldom.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    # Tracebacks of trials that fail; they are told of in a line each.
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _keep_events(folder: Path) -> None:
    """Delete all that Tune wrote but for TensorBoard's files; part of it is pickled."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and not path.name.startswith("events.out.tfevents"):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
