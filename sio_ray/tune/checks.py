"""Refuses a search that could not work, or would try the same thing twice, before its first trial."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any, get_args

from sio_ray.classifier.schedules import num_steps_of
from sio_ray.config import Config, dotted_keys, with_overrides
from sio_ray.errors import ConfigError, did_you_mean
from sio_ray.ood.groups import Group
from sio_ray.search.population import Population
from sio_ray.search.space import Space, between, extremes
from sio_ray.search.trial import Trial
from sio_ray.stages.preflight import check_judges, check_train
from sio_ray.tune.work import EVALUATE_PREFIX, GENERATE_PREFIX, PlannedTrial, draws_sets, keeps_networks

#: Fields of `train` that a search sets itself, or that name data rather than say how to train.
_NOT_SEARCHED = {"train.arms", "train.seeds", "train.ensemble_size", "train.synthetic_set"}

_SEARCHED = ("train.", GENERATE_PREFIX, EVALUATE_PREFIX + "detector_options.")

#: Corners of a space that are checked at the most; with more, only those that leave one field at a time.
_MAX_CORNERS = 256


def check_space(space: Space, config: Config, num_real: int, num_synthetic: int | None) -> None:
    """Refuse a space that leaves the config's bounds anywhere at its corners.

    Args:
        space: what to check.
        config: what its values are put into.
        num_real: images of the real training set.
        num_synthetic: of the synthetic set at hand; None where every trial draws its own.

    Raises:
        ConfigError: an unknown field, one that is not searched or that decides nothing with this config, a value out of
            bounds, options that a detector does not take, fewer steps than validations, more synthetic images than
            there are, a ramp of a field whose schedule is searched, a stopping rule where networks are shared, or one
            place for the synthetic sets of all trials.
        BatchError: at a corner a batch cannot hold both sources.
    """
    for key in space:
        _check_field(key, space, config)
    if config.tune.algorithm == "pbt":
        Population(space, config.tune)
        _check_schedules(space, config, num_real)
    _check_stopping(space, config)
    baseline = PlannedTrial.of(_trial({}, config), config, num_real)
    _check_steps(config, baseline.config.train.num_steps)
    for values in _corners(space):
        planned = PlannedTrial.of(_trial(values, config), config, num_real)
        if draws_sets(space):
            _check_output(planned.config)
        check_train(planned.config)
        check_judges(planned.config)
        _check_steps(planned.config, planned.config.train.num_steps)
        _check_ratio(planned.config, num_real, num_synthetic)
    for key, entry in space.items():
        _check_decides(key, extremes(entry), config, num_real)


def check_objectives(config: Config, groups: Collection[str]) -> None:
    """Refuse an objective that no validation set gives.

    Args:
        config: of the search.
        groups: of the OOD validation sets.

    Raises:
        ConfigError: there is one.
    """
    for objective in config.tune.objectives:
        group = objective.removesuffix("_auroc")
        if group in get_args(Group) and group not in groups:
            raise ConfigError(
                "tune.objectives",
                f"of OOD groups with a validation set ({', '.join(sorted(groups))})",
                objective,
                f"choose another, or prepare a {group}-OOD validation set",
            )


def check_concurrency(config: Config, *, learns: bool) -> None:
    """Refuse more trials side by side than a search that learns has on the way.

    Raises:
        ConfigError: there are.
    """
    section = config.tune
    if learns and section.algorithm != "pbt" and section.concurrent_trials > section.lookahead:
        raise ConfigError(
            "tune.concurrent_trials",
            f"at most tune.lookahead ({section.lookahead}) in a search that learns from results",
            section.concurrent_trials,
            "lower it, or raise tune.lookahead, which changes what is proposed",
        )
    if section.workers_per_trial > 1 and section.gpus_per_trial not in (0, 1):
        raise ConfigError(
            "tune.gpus_per_trial",
            "0 or 1 where trials have several workers",
            section.gpus_per_trial,
            "give each worker a whole GPU, or set tune.workers_per_trial=1",
        )


def _check_field(key: str, space: Space, config: Config) -> None:
    if not key.startswith(_SEARCHED) or key in _NOT_SEARCHED:
        known = key in dotted_keys() or key in _NOT_SEARCHED
        remedy = "drop it from the space" if known else did_you_mean(key, dotted_keys(), "drop it from the space")
        rule = "of fields that change a training run, its synthetic set or a detector"
        raise ConfigError("tune.space", f"{rule} ({', '.join(f'{prefix}*' for prefix in _SEARCHED)})", key, remedy)
    for value in extremes(space[key]):
        with_overrides(config, {key: value})


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    yield {key: between(entry) for key, entry in space.items()}
    values = [extremes(entry) for entry in space.values()]
    count = 1
    for each in values:
        count *= len(each)
    if count <= _MAX_CORNERS:
        for corner in itertools.product(*values):
            yield dict(zip(space, corner, strict=True))
        return
    first = {key: each[0] for key, each in zip(space, values, strict=True)}
    for key, each in zip(space, values, strict=True):
        for value in each:
            yield {**first, key: value}


def _trial(values: dict[str, Any], config: Config) -> Trial:
    section = config.tune
    last = 1 if section.algorithm == "pbt" else section.num_validations
    return Trial(1, "sio", values, section.seeds, last)


def _check_output(config: Config) -> None:
    if config.generate.output is not None:
        raise ConfigError(
            "generate.output",
            f"left out in a space over {GENERATE_PREFIX}*",
            config.generate.output,
            "drop it, as every trial's synthetic set needs a place of its own, which is below output_dir",
        )


def _check_stopping(space: Space, config: Config) -> None:
    """Refuse stopping where trials share networks: one that takes them is judged at their end alone."""
    if config.tune.stopping != "none" and keeps_networks(space):
        raise ConfigError(
            "tune.stopping",
            f"none in a space over {EVALUATE_PREFIX}*",
            config.tune.stopping,
            "train to the end, as networks are trained once and then judged in each way",
        )


def _check_schedules(space: Space, config: Config, num_real: int) -> None:
    """Refuse what the schedule that a population finds could not be written over, or into."""
    for key in space:
        field = f"{key.removeprefix('train.')}_ramp"
        if (ramp := getattr(config.train, field)) is not None:
            raise ConfigError(
                f"train.{field}",
                f"left out while pbt searches {key}",
                ramp.model_dump(exclude_defaults=True),
                f"drop it, as a population finds a schedule of its own, or take {key} out of the space",
            )
    _check_steps(config, num_steps_of(config.train, num_real), "that the schedule is for", "train longer")


def _check_steps(
    config: Config, num_steps: int, which: str = "of a trial", to_have_more: str = "train them longer"
) -> None:
    if num_steps < config.tune.num_validations:
        raise ConfigError(
            "tune.num_validations",
            f"at most the steps {which} ({num_steps:,})",
            config.tune.num_validations,
            f"judge trials less often, or {to_have_more}",
        )


def _check_ratio(config: Config, num_real: int, num_synthetic: int | None) -> None:
    if num_synthetic is None:  # checked against generate.synthetic_ratio of the same corner already
        return
    asked, at_hand = config.train.synthetic_ratio or 0.0, num_synthetic / num_real
    if round(asked * num_real) > num_synthetic:
        raise ConfigError(
            "train.synthetic_ratio",
            f"at most {at_hand:.4g}, the {num_synthetic:,} synthetic images at hand over {num_real:,} real ones",
            asked,
            f"draw {round(asked * num_real):,} with generate.synthetic_ratio={asked:g}, or lower it in the space",
        )


def _check_decides(key: str, values: list[Any], config: Config, num_real: int) -> None:
    keys = {PlannedTrial.of(_trial({key: value}, config), config, num_real).key for value in values}
    different = len({repr(value) for value in values})
    if different > 1 and len(keys) == 1:
        raise ConfigError(
            "tune.space",
            "of fields that decide a trial's result with this config",
            key,
            "drop it from the space, or set the fields that make it count",
        )
