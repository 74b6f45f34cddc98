"""The section of the config that searches for the best training settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sio_ray.config.section import Section, resource
from sio_ray.errors import ConfigError

#: What a trial is judged by: AUROC over near-OOD sets, far-OOD sets, the mean of both; ID accuracy.
Objective = Literal["near_auroc", "far_auroc", "mean_auroc", "val_accuracy"]


class TuneConfig(Section):
    """The search over training settings against OOD AUROC on the validation sets; test sets are never read.

    Attributes:
        space: path of a search space module, such as `tune_spaces/weight_and_ratio.py`.
        algorithm: what proposes values where the space is not a pure grid: `random`, `optuna` (TPE), or `pbt`, a
            population whose worst members take over weights and settings of the best, which finds schedules.
        num_trials: trials besides the baseline; the size of the population for `pbt`. A pure grid tries every point.
        objectives: what to maximise; a second one makes the search multi-objective.
        detectors: AUROCs are means over these.
        fit_images: images of the training set that detectors which learn from it are given, at the most.
        max_accuracy_drop: a trial counts only with an ID validation accuracy of at least the baseline's minus this.
        seeds: every trial trains once per seed and is judged by the mean.
        confirm_seeds: fresh seeds for the baseline and the best at the end; none skips it.
        num_steps: optimiser steps of each training run; those of `train` if not given.
        num_validations: how often a trial is judged on its way, evenly spread; generations for `pbt`.
        stopping: `asha` stops a trial whose objective is not among the best 1 / reduction_factor at a rung, `median`
            one that is below the median of the others' running means; `none` trains all to the end.
        reduction_factor: of `asha`; rungs lie at 1, 1/r, 1/r^2, ... of the run.
        lookahead: how many trials a search that learns from results may have on the way. A decision about trial i reads
            trials up to i - lookahead, finished or not by then is waited for; so timing and kills change nothing.
        search_seed: of the search algorithm.
        concurrent_trials: trials that train side by side.
        cpus_per_trial: CPU cores, and threads, of each; of each worker where a trial has several.
        gpus_per_trial: GPUs (or a fraction of one) of each, likewise.
        workers_per_trial: data-parallel workers of each trial; above 1 it runs under Ray Train.
        max_failures_per_trial: how often a trial whose process dies is started again.
    """

    space: Path = Path("tune_spaces/weight_and_ratio.py")
    algorithm: Literal["random", "optuna", "pbt"] = "random"
    num_trials: int = Field(16, ge=1)
    objectives: tuple[Objective, ...] = Field(("near_auroc",), min_length=1, max_length=2)
    detectors: tuple[str, ...] = Field(("energy",), min_length=1)
    fit_images: int = Field(10_000, ge=1)
    max_accuracy_drop: float | None = Field(
        None, ge=0, le=1, json_schema_extra={"remedy": "give a share, such as 0.005"}
    )
    seeds: tuple[int, ...] = Field((100,), min_length=1)
    confirm_seeds: tuple[int, ...] = (200, 201, 202)
    num_steps: int | None = Field(None, ge=1)
    num_validations: int = Field(4, ge=1)
    stopping: Literal["none", "asha", "median"] = "none"
    reduction_factor: int = Field(3, ge=2)
    lookahead: int = Field(4, ge=1)
    search_seed: int = Field(0, ge=0)
    concurrent_trials: int = resource(2, ge=1)
    cpus_per_trial: int = resource(1, ge=1)
    gpus_per_trial: float = resource(0, ge=0, le=1)
    workers_per_trial: int = resource(1, ge=1)
    max_failures_per_trial: int = resource(2, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("objectives", "detectors", "seeds", "confirm_seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ConfigError(f"tune.{field}", "without repeats", values, "name each once")
        both = sorted(set(self.seeds) & set(self.confirm_seeds))
        if both:
            raise ConfigError("tune.confirm_seeds", "other seeds than tune.seeds", both, "confirm by fresh ones")
        if len(self.objectives) > 1 and self.stopping != "none":
            raise ConfigError(
                "tune.stopping", "none with two objectives", self.stopping, "a front has no worst trial to stop"
            )
        if self.algorithm == "pbt":
            self._check_population()
        elif self.stopping == "asha" and self.num_validations < self.reduction_factor:
            raise ConfigError(
                "tune.num_validations",
                f"at least tune.reduction_factor ({self.reduction_factor}) with asha",
                self.num_validations,
                "judge trials more often, so that there is a rung to stop at",
            )
        return self

    def _check_population(self) -> None:
        if self.num_trials < 2:
            raise ConfigError("tune.num_trials", "at least 2 with pbt", self.num_trials, "a population has members")
        if self.num_validations < 2:
            raise ConfigError("tune.num_validations", "at least 2 with pbt", self.num_validations, "it is generations")
        if self.stopping != "none":
            raise ConfigError(
                "tune.stopping", "none with pbt", self.stopping, "a population replaces its worst members"
            )
        if len(self.objectives) > 1:
            raise ConfigError("tune.objectives", "one with pbt", self.objectives, "choose one, or use optuna")
