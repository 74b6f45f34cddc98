"""The Ray Train edge: runs a loop on workers, bounded in retries, and resumes it by name."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor

from sio_ray.cluster import limit_threads, our_cause
from sio_ray.errors import SioRayError, TrainingError
from sio_ray.progress import console
from sio_ray.training.board import Spent
from sio_ray.training.loop import Point
from sio_ray.training.ray_record import committed, mend_record
from sio_ray.training.state import load_progress, save_progress
from sio_ray.training.workers import mean_over_workers
from sio_ray.watching import events, metrics

#: How often workers may fail in a row without a new checkpoint: a long run outlives any number of lost nodes.
_MAX_FAILURES = 4

#: How often Ray's controller may fail to get workers.
_MAX_CONTROLLER_FAILURES = 3

#: How long a cluster has, after workers were lost, to grow again and to decode what sets went with them.
_MAX_RECOVERY_S = 1800

_PROGRESS_INTERVAL_S = 0.25


class RayTrainReporter:
    """Reports to Ray Train (a checkpoint from rank 0, a barrier for the others) and to the driver's board.

    Args:
        run: name under which the board shows this run.
        board: handle of the driver's `Board`, or None.
        on_report: called on rank 0 with step and curve before each checkpoint.
        feed_wait_s: seconds that this worker has waited for its feed so far.
    """

    def __init__(
        self,
        run: str,
        board: Any,
        on_report: Callable[[int, list[Point]], None] | None = None,
        feed_wait_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._run, self._board, self._on_report, self._feed_wait_s = run, board, on_report, feed_wait_s
        self._is_first = ray.train.get_context().get_world_rank() == 0
        self._last_s = 0.0
        self._steps, self._step_s, self._report_s = 0, 0.0, 0.0
        self._mark_s = time.monotonic()

    def resume(self) -> tuple[dict[str, Tensor], int, list[Point]] | None:
        """See `Reporter`."""
        checkpoint, found = ray.train.get_checkpoint(), None
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                found = load_progress(Path(folder))
        self._mark_s = time.monotonic()
        return found

    def average(self, values: Tensor) -> Tensor:
        """See `Reporter`."""
        return mean_over_workers(values)

    def progress(self, step: int) -> None:
        """See `Reporter`."""
        now_s = time.monotonic()
        self._steps += 1
        self._step_s += now_s - self._mark_s
        self._mark_s = now_s
        if now_s - self._last_s >= _PROGRESS_INTERVAL_S:
            self._last_s = now_s
            self._tell(step)

    def report(self, step: int, points: list[Point], state: Callable[[], dict[str, Tensor]]) -> None:
        """See `Reporter`."""
        if not self._is_first:
            ray.train.report(points[-1])
            return
        self._tell(step, points[-1])
        if self._on_report is not None:
            self._on_report(step, points)
        with tempfile.TemporaryDirectory() as folder:
            save_progress(Path(folder), state(), step, points)
            ray.train.report(points[-1], checkpoint=Checkpoint.from_directory(folder))
        now_s = time.monotonic()
        self._report_s += now_s - self._mark_s
        self._mark_s = now_s
        self._tell(step)

    def _tell(self, step: int, point: Point | None = None) -> None:
        if self._is_first and self._board is not None:
            spent = Spent(self._steps, self._step_s, self._feed_wait_s(), self._report_s)
            self._board.update.remote(self._run, step, spent, point)


@dataclass(frozen=True)
class Trained:
    """What a training run ends with.

    Attributes:
        state: of the last step.
        points: the whole training curve.
        best: state of the report that was best, or the last where none is asked for.
    """

    state: dict[str, Tensor]
    points: list[Point]
    best: dict[str, Tensor]


def start_worker(cpus: int) -> torch.device:
    """Hold this worker to the cores that it was given, and say which device it has."""
    limit_threads(cpus)
    device: torch.device = ray.train.torch.get_device()
    return device


@dataclass(frozen=True)
class Workers:
    """The data-parallel workers of a run, all placed at once or not at all.

    Attributes:
        num_workers: how many.
        cpus_per_worker: CPU cores of each.
        gpus_per_worker: GPUs of each; 0 for CPUs.
        min_workers: start, and go on, with as few where the cluster has no more; more join when they can.
    """

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    min_workers: int | None = None

    def scaling(self) -> ScalingConfig:
        """As Ray Train has it."""
        is_elastic = self.min_workers is not None and self.min_workers < self.num_workers
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return ScalingConfig(
            num_workers=(self.min_workers, self.num_workers) if is_elastic else self.num_workers,
            use_gpu=self.gpus_per_worker > 0,
            resources_per_worker={"CPU": self.cpus_per_worker, **gpus},
        )


def run_on_workers(
    loop: Callable[[dict[str, Any]], None],
    loop_config: dict[str, Any],
    *,
    name: str,
    state_dir: Path,
    workers: Workers,
    best_by: str | None = None,
) -> Trained:
    """Run a training loop that reports checkpoints until it has ended, continuing an earlier run of the same name.

    Args:
        loop: must report at least once, at its last step; for all others see `fit_on_workers`.
        loop_config: its argument.
        name: of the run.
        state_dir: folder for Ray's checkpoints.
        workers: that run it.
        best_by: key of the curve by whose largest value a checkpoint is kept beside the last.

    Raises:
        SioRayError: see `fit_on_workers`.
        TrainingError: likewise.
    """
    result = fit_on_workers(loop, loop_config, name=name, state_dir=state_dir, workers=workers, best_by=best_by)
    if result.checkpoint is None:
        raise TrainingError(f"run {name} left no checkpoint in {state_dir}; delete that folder and train again.")
    with result.checkpoint.as_directory() as folder:
        state, _, points = load_progress(Path(folder))
    if best_by is None:
        return Trained(state, points, state)
    # Of equal ones the later, which Ray keeps in any case.
    best, _ = max(result.best_checkpoints or [], key=lambda pair: (pair[1][best_by], pair[1]["step"]))
    with best.as_directory() as folder:
        return Trained(state, points, load_progress(Path(folder))[0])


def fit_on_workers(
    loop: Callable[[dict[str, Any]], None],
    loop_config: dict[str, Any],
    *,
    name: str,
    state_dir: Path,
    workers: Workers,
    best_by: str | None = None,
) -> ray.train.Result:
    """Run a loop under Ray Train until it has ended, and again if workers were killed.

    Args:
        loop: runs in every worker.
        loop_config: its argument.
        name: of the run; with `state_dir` the key to resume by.
        state_dir: folder for Ray's checkpoints, shared by all nodes.
        workers: that run it.
        best_by: key of what is reported, by whose largest value a checkpoint is kept beside the last.

    Raises:
        SioRayError: what the loop raised, if it was one of ours.
        TrainingError: the workers failed otherwise, `_MAX_FAILURES` times without a new checkpoint.
    """
    run_config = RunConfig(
        name=name,
        storage_path=str(state_dir),
        # Beside those kept by score, Ray keeps the last.
        checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=best_by),
        # Ray would retry every error alike. Here a killed worker is retried, and an error of ours, which would come
        # again, is not.
        failure_config=FailureConfig(max_failures=0, controller_failure_limit=_MAX_CONTROLLER_FAILURES),
    )

    def make_trainer() -> TorchTrainer:
        mend_record(state_dir / name, best_by)
        return TorchTrainer(
            loop, train_loop_config=loop_config, scaling_config=workers.scaling(), run_config=run_config
        )

    return _fit_to_the_end(make_trainer, name, state_dir / name, loop_config)


def _fit_to_the_end(
    make_trainer: Callable[[], TorchTrainer], name: str, folder: Path, loop_config: dict[str, Any]
) -> ray.train.Result:
    """Begin a run or go on with it, until it has ended or failed `_MAX_FAILURES` times without a new checkpoint."""
    num_failures, record = 0, committed(folder)
    while True:
        try:
            return make_trainer().fit()
        except ray.train.TrainingFailedError as error:
            ours = _our_error(error)
            if ours is not None:
                raise ours from error
            before, record = record, committed(folder)
            num_failures = num_failures + 1 if record == before else 1
            if num_failures == _MAX_FAILURES:
                raise TrainingError(
                    f"run {name} failed {num_failures} times without a new checkpoint, the last with: "
                    f"{_last_line(error)}; run the same command again to continue from its last checkpoint, with "
                    "--debug for the whole error."
                ) from error
            metrics.count("sio_train_restarts_total")
            events.tell("workers_lost", _last_line(error), level="warning")
            console.print(
                f"  run {name} stopped ({_last_line(error)}); continuing from its last checkpoint",
                markup=False,
                soft_wrap=True,
            )
            _recover_sets(loop_config)


def _recover_sets(loop_config: dict[str, Any]) -> None:
    """Wait until what a lost node held is decoded again, before new workers take the cores that this needs.

    Workers that hold all cores would wait for it without end. Its errors are for them to raise.
    """
    sets = [value for value in _leaves(loop_config) if isinstance(value, ray.ObjectRef)]
    ray.wait([ray.remote(num_cpus=1)(lambda *_: None).remote(*sets)], timeout=_MAX_RECOVERY_S)


def _leaves(value: Any) -> Iterator[Any]:
    for inner in value.values():
        yield from _leaves(inner) if isinstance(inner, dict) else (inner,)


def _our_error(error: Exception) -> SioRayError | None:
    """The error of ours among the causes of what the workers raised, if there is one."""
    causes = (our_cause(failure) for failure in getattr(error, "worker_failures", {}).values())
    return next((cause for cause in causes if cause is not None), None)


def _last_line(error: Exception) -> str:
    failures = list(getattr(error, "worker_failures", {}).values())
    lines = str(failures[0] if failures else error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
