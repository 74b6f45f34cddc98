"""The process of a trial under Ray Tune: takes its work, runs it, and tells Tune how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import ray.tune
import torch

from sio_ray.cluster import limit_threads
from sio_ray.errors import SioRayError
from sio_ray.redaction import redact
from sio_ray.search.trial import TrialResult, Validation
from sio_ray.training.ray_train import Workers, fit_on_workers, start_worker
from sio_ray.tune.learn import Place, TrialRun
from sio_ray.tune.shelf import pick_up
from sio_ray.tune.store import read_result, write_error
from sio_ray.tune.work import TrialWork


def run_trial(params: dict[str, Any], shelf: Any, cpus: int, cpus_reserved: int, gpus: float, workers: int) -> None:
    """What Tune runs for every trial, in a process that goes from trial to trial.

    A trial of one worker trains in this process, on image sets that all trials of the node share; only one of several
    workers pays for the start of a Ray Train run.

    Args:
        params: of Tune: `key` of the trial.
        shelf: where its work lies.
        cpus: threads of each worker.
        cpus_reserved: cores that each worker asks Ray for, as its feed may take some beside its own.
        gpus: GPUs, or a fraction of one, of each.
        workers: of the trial.
    """
    work: TrialWork = pick_up(shelf, params["key"])
    try:
        if workers > 1:
            run_under_ray_train(work, params["key"], cpus, Workers(workers, cpus_reserved, int(gpus)))
            return
        limit_threads(cpus)
        device = torch.device("cuda" if gpus else "cpu")
        TrialRun(work, Place(device), lambda point: ray.tune.report(point.summary())).run()
        if gpus:
            torch.cuda.empty_cache()  # the next trial of this process, or another that shares the GPU, may need it
    except Exception as error:
        text = str(error) if isinstance(error, SioRayError) else f"{type(error).__name__}: {error}"
        write_error(work.folder, redact((text.strip().splitlines() or [type(error).__name__])[0]))
        raise


def run_under_ray_train(work: TrialWork, name: str, cpus: int, workers: Workers) -> None:
    """Run a trial's work in a Ray Train run of its own, and tell Tune of it at the end.

    Args:
        work: what to do.
        name: of the run.
        cpus: threads of each worker.
        workers: of the run.
    """
    fit_on_workers(
        _train_loop,
        # The sets by themselves as well, which are waited for where a node was lost with them.
        {"work": work, "cpus": cpus, "sets": {"val": work.val, **work.ood, **work.sources}},
        name=name,
        state_dir=Path(work.folder) / "ray_train",
        workers=workers,
    )
    result = read_result(work.folder)
    assert result is not None, "the first worker has written it"
    _tell(result)


def _tell(result: TrialResult) -> None:
    for point in result.curve:
        ray.tune.report(point.summary())


def _train_loop(loop_config: dict[str, Any]) -> None:
    """Runs in every worker of a trial that has several."""
    context = ray.train.get_context()
    place = Place(
        device=start_worker(loop_config["cpus"]),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        wrap=ray.train.torch.prepare_model,
    )
    TrialRun(loop_config["work"], place, _nobody).run()


def _nobody(point: Validation) -> None:
    """Tune hears of a trial with several workers when it has ended."""
