"""A search played without training: results come from a formula, in any order of arrival."""

import random

from sio_ray.config import load_config
from sio_ray.search.search import Search
from sio_ray.search.trial import TrialResult, Validation

SPACE = {"train.real_weight": ("uniform", 0.5, 0.95), "train.synthetic_ratio": ("choice", [0.25, 0.5, 1.0])}


def tuned(*overrides):
    """The digits preset with fields of `tune` changed."""
    return load_config("digits", [f"tune.{override}" for override in overrides])


def auroc_of(trial, seed, validation):
    """A smooth formula with a best place inside the space, noise by seed, and growth over training."""
    weight = trial.values.get("train.real_weight", 1.0)
    ratio = trial.values.get("train.synthetic_ratio", 0.0)
    noise = random.Random(f"{weight} {ratio} {seed} {validation}").gauss(0, 0.004)
    return 0.9 - (weight - 0.8) ** 2 + 0.03 * min(ratio, 0.5) - 0.1 / (validation + 1) + noise


def result_of(trial, section):
    """What a trial would give: curves by the formula, cut where its floors stop it."""
    curve, objectives = [], []
    for number in range(trial.first, trial.last):
        values = tuple(auroc_of(trial, seed, number) for seed in trial.seeds)
        accuracy = tuple(0.99 - 0.02 * trial.values.get("train.synthetic_ratio", 0.0) for _ in trial.seeds)
        by_seed = dict.fromkeys(("near_auroc", "far_auroc", "mean_auroc"), values)
        curve.append(Validation(100 * (number + 1), {**by_seed, "val_accuracy": accuracy}))
        objectives.append(curve[-1].mean(section.objectives[0]))
        if trial.floors.stop(objectives):
            return TrialResult("stopped", tuple(curve))
    return TrialResult("done", tuple(curve))


def played(config, space=SPACE, *, arrival=0, concurrent=4, failing=(), results=None):
    """Play a search to its end.

    Args:
        config: with the section `tune`.
        space: of the values.
        arrival: seed of the order in which running trials end.
        concurrent: trials that run at once.
        failing: indices that fail.
        results: of an earlier try, which are there already.
    """
    search, found, running, order = Search(config, space), {}, [], random.Random(arrival)
    known = dict(results or {})
    while True:
        while len(running) < concurrent and (trial := search.next(found)) is not None:
            if trial.index in known:
                found[trial.index] = known[trial.index]
            else:
                running.append(trial)
        if not running:
            assert search.is_over(found), "a search that waits for nothing hangs"
            return search, found
        trial = running.pop(order.randrange(len(running)))
        failed = TrialResult("failed", error="it fails")
        found[trial.index] = failed if trial.index in failing else result_of(trial, config.tune)
