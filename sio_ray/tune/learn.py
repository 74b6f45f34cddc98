"""Trains and judges one trial, its seeds side by side, in one process or in each of its workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sio_ray.classifier.trainee import ClassifierTrainee, build_trainee
from sio_ray.errors import TrainingError
from sio_ray.search.trial import TrialResult, Validation
from sio_ray.stages.training_sets import pool_sizes
from sio_ray.training.feeds import open_feed
from sio_ray.training.loop import CHECK_EVERY_STEPS, refuse_what_is_not_finite
from sio_ray.training.shared_sets import fetch
from sio_ray.training.workers import from_first_worker, mean_over_workers
from sio_ray.tune.judge import Judge
from sio_ray.tune.store import delete_state, load_state, read_result, save_state, write_result
from sio_ray.tune.work import TrialWork


@dataclass(frozen=True)
class Place:
    """Where a trial runs.

    Attributes:
        device: of the networks.
        rank: position of this worker.
        world_size: workers that train together.
        wrap: makes a network data-parallel.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    wrap: Callable[[nn.Module], nn.Module] = field(default=lambda module: module)


class _Learner:
    """One seed of a trial."""

    def __init__(self, work: TrialWork, seed: int, place: Place) -> None:
        arm, section = work.trial.arm, work.section
        workers: dict[str, Any] = {
            "seed": seed,
            "device": place.device,
            "rank": place.rank,
            "world_size": place.world_size,
        }
        self.feed = open_feed(
            section,
            work.sources,
            arm=arm,
            pool_size=pool_sizes(section, work.num_real, work.num_synthetic),
            **workers,
        )
        self.trainee: ClassifierTrainee = build_trainee(
            section, work.architecture, self.feed, fetch(work.val), arm=arm, wrap=place.wrap, **workers
        )

    def advance(self, start: int, end: int) -> float:
        """Train from step to step; returns the mean loss.

        Raises:
            TrainingError: a loss is not finite.
        """
        losses: list[Tensor] = []
        total = 0.0
        for step in range(start, end):
            losses.append(self.trainee.step(step))
            if len(losses) == CHECK_EVERY_STEPS or step == end - 1:
                # Over all workers, so that they stop together.
                of_steps = mean_over_workers(torch.stack(losses))
                refuse_what_is_not_finite(of_steps, step + 1 - len(losses))
                total += float(of_steps.sum())
                losses.clear()
        return total / (end - start)


class TrialRun:
    """One trial in this worker.

    A trial that was killed goes on from its last validation. Its result, once written, is all that is kept.

    Args:
        work: what to do.
        place: where.
        report: called on the first worker with each new validation.
    """

    def __init__(self, work: TrialWork, place: Place, report: Callable[[Validation], None]) -> None:
        self._work, self._place, self._report = work, place, report
        self._curve: list[Validation] = []
        self._seconds: dict[str, Any] = {"train_s": 0.0, "judge_s": 0.0, "wall_s": 0.0}
        self._learners: list[_Learner] = []

    def run(self) -> TrialResult:
        """Train, judge, stop early or not, and write the result."""
        start_s = time.monotonic()
        try:
            status = self._learn(start_s)
            result = TrialResult(status, tuple(self._curve), **self._seconds)
        except TrainingError as error:  # a loss that is not finite: a property of the values, which comes again
            result = TrialResult("diverged", tuple(self._curve), **self._seconds, error=str(error))
        finally:
            for learner in self._learners:
                learner.feed.close()
        if self._place.rank == 0:
            # A segment that is trained again for its state keeps the result that later ones were decided by.
            if read_result(self._work.folder) is None:
                write_result(self._work.folder, result)
            if not self._work.keeps_state:
                delete_state(self._work.folder)
        return result

    def _learn(self, start_s: float) -> Any:
        work, trial = self._work, self._work.trial
        self._learners = [_Learner(work, seed, self._place) for seed in trial.seeds]
        judge = Judge(work) if self._place.rank == 0 else None
        begin = self._resume()
        for number in range(begin, trial.last):
            losses = self._train(work.step_of(number), work.step_of(number + 1))
            self._validate(number + 1, losses, judge)
            self._seconds["wall_s"] += time.monotonic() - start_s
            start_s = time.monotonic()
            stops = trial.floors.stop([point.mean(work.objective) for point in self._curve])
            if not stops and (number + 1 < trial.last or work.keeps_state):
                self._save(work.folder, number + 1)
            if stops:
                return "stopped"
        if not self._curve:  # networks that another trial left: only to be judged
            self._validate(trial.last, None, judge)
        elif work.networks is not None:
            self._save(work.networks, trial.last)
        return "done"

    def _resume(self) -> int:
        """Take up what is there: this trial's state, finished networks, or the parent's; returns validations done."""
        work = self._work
        for folder, is_own in ((work.folder, True), (work.networks, False), (work.parent, False)):
            found = load_state(folder) if folder is not None else None
            if found is None:
                continue
            states, progress = found
            for learner, state in zip(self._learners, states, strict=True):
                learner.trainee.load_state(state)
            if is_own:
                self._curve = [Validation.from_json(point) for point in progress["curve"]]
                self._seconds = progress["seconds"]
            return int(progress["validations"])
        if work.parent is not None:
            raise RuntimeError(f"the state of the parent trial in {work.parent} is gone")
        return 0

    def _save(self, folder: str, validations: int) -> None:
        if self._place.rank != 0:
            return
        curve = [asdict(point) for point in self._curve]
        progress = {"validations": validations, "curve": curve, "seconds": self._seconds}
        save_state(folder, [learner.trainee.state() for learner in self._learners], progress)

    def _train(self, start: int, end: int) -> list[float]:
        start_s = time.monotonic()
        losses = [learner.advance(start, end) for learner in self._learners]
        self._seconds["train_s"] += time.monotonic() - start_s
        return losses

    def _validate(self, number: int, losses: list[float] | None, judge: Judge | None) -> None:
        start_s = time.monotonic()
        rows: list[Mapping[str, float]] = []
        for learner in self._learners:
            measured = learner.trainee.measure()
            row = judge(learner.trainee.classifier.eval()) if judge is not None else {}
            rows.append({**measured, **from_first_worker(row)})
        by_seed = {metric: tuple(row[metric] for row in rows) for metric in rows[0]}
        if losses is not None:
            by_seed["loss"] = tuple(losses)
        point = Validation(self._work.step_of(number), by_seed)
        self._curve.append(point)
        self._seconds["judge_s"] += time.monotonic() - start_s
        if self._place.rank == 0:
            self._report(point)
