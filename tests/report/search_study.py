"""Results of searches to render, as a finished search would hand them over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

WEIGHT = {"train.real_weight": {"kind": "uniform", "low": 0.5, "high": 0.95}}
WEIGHT_AND_RATIO = {**WEIGHT, "train.synthetic_ratio": {"kind": "uniform", "low": 0.1, "high": 1.0}}
WEIGHT_AND_CHOICE = {**WEIGHT, "train.synthetic_ratio": {"kind": "choice", "values": [0.25, 0.5, 1.0]}}
GRID = {"train.real_weight": {"kind": "grid", "values": [0.9, 0.8, 0.5, 0.2]}}
MIXED = {
    **WEIGHT_AND_RATIO,
    "train.lr": {"kind": "loguniform", "low": 0.001, "high": 0.3},
    "train.num_epochs": {"kind": "integer", "low": 5, "high": 30},
    "train.algorithm": {"kind": "choice", "values": ["cross_entropy", "logitnorm"]},
    "train.nesterov": {"kind": "choice", "values": [True, False, None]},
    "generate.guidance_interval": {"kind": "choice", "values": [None, [0.1, 0.9]]},
}
#: Lists alone, so that trials of equal values lie on each other.
CATEGORIES = {key: MIXED[key] for key in ("train.algorithm", "generate.guidance_interval")}
FACTS = {"Machine": "2 CPU cores, no GPU", "Config": "name: digits\ntrain:\n  real_weight: 0.8\n"}

_METRICS = {"near_auroc": 0.95, "far_auroc": 0.97, "val_accuracy": 0.96, "val_loss": 0.12}
_STEPS = (175, 350, 525, 700)


def make_trial(index: int, values: Mapping[str, Any], *, lift: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A trial whose AUROC is `lift` above 0.95 at its last validation.

    Args:
        index: of the trial.
        values: of the fields.
        lift: what the trial gains.
        changes: other keys; `status` stopped keeps two validations, failed none; `steps` are those of the curve.
    """
    status = changes.get("status", "done")
    steps = changes.pop("steps", _STEPS[: {"done": 4, "stopped": 2}.get(status, 0)])
    curve = [
        {"step": step, "loss": 0.2, **_figures(lift - 0.00005 * (_STEPS[-1] - step), 0.001 * (index % 5))}
        for step in steps
    ]
    figures = {key: curve[-1][key] if curve else None for key in _figures(0, 0)}
    trial = {
        **{"index": index, "phase": "search", "arm": "sio" if values else "baseline", "values": dict(values)},
        **{"status": status, "seeds": [100, 101], "curve": curve, **figures, "error": None, "is_feasible": True},
        **{"train_s": 12.3, "judge_s": 1.1, "wall_s": 13.6},
    }
    return {**trial, **changes}


def make_result(fields: Mapping[str, Any] = WEIGHT_AND_RATIO, num_trials: int = 12, **changes: Any) -> dict[str, Any]:
    """A search in which trial 1 is the best and was confirmed, 2 was stopped and 3 failed.

    Args:
        fields: of the space.
        num_trials: besides the baseline.
        changes: other keys of the result.
    """
    rng = np.random.default_rng(0)
    trials = [make_trial(0, {})]
    for index in range(1, num_trials + 1):
        status = {2: "stopped", 3: "failed"}.get(index, "done")
        lift = 0.01 if index == 1 else float(rng.uniform(-0.005, 0.008))
        error = "TrainError: the loss is not finite; lower train.lr." if status == "failed" else None
        values = {key: _draw(spec, rng) for key, spec in fields.items()}
        trials.append(make_trial(index, values, lift=lift, status=status, error=error))
    best = 1 if num_trials else 0
    confirmation = None
    if best:
        fresh = {"phase": "confirm", "seeds": [200, 201, 202]}
        count = len(trials)
        trials.append(make_trial(count, {}, **fresh))
        trials.append(make_trial(count + 1, trials[1]["values"], lift=0.007, **fresh))
        confirmation = {
            "seeds": [200, 201, 202],
            "baseline": count,
            "best": count + 1,
            "gain": 0.007,
            "gain_std": 0.003,
        }
    result = {
        **{"objectives": ["near_auroc"], "detectors": ["energy", "knn"], "algorithm": "optuna", "stopping": "asha"},
        **{"fields": dict(fields), "num_steps": 700, "num_validations": 4, "num_seeds": 2, "trials": trials},
        **{"best": best, "best_values": trials[best]["values"] or {"train.arms": ["baseline"]}},
        **{"confirmation": confirmation, "pareto": [best], "failed": [3] if num_trials >= 3 else []},
        "importance": {key: 1 / len(fields) for key in fields} if num_trials else None,
        "constraint": {"max_accuracy_drop": 0.005, "least_accuracy": 0.955},
        "cost": {
            **{"wall_s": 300.1, "train_s": 402.0, "judge_s": 31.0, "generate_s": 0.0},
            **{"num_trained": num_trials + 1, "num_reused": 2, "overhead_s_per_trial": 0.4},
        },
    }
    return {**result, **changes}


def make_population(size: int = 4, num_generations: int = 4) -> dict[str, Any]:
    """A population whose first member's lineage is the best and changed its weight in the third generation."""
    trials = [make_trial(0, {})]
    for generation in range(num_generations):
        for member in range(size):
            index = 1 + generation * size + member
            weight = 0.9 if generation > 1 and member == 0 else 0.6 + 0.05 * member
            more = {"generation": generation, "parent": index - size if generation else None}
            values = {"train.real_weight": weight, "train.lr": 0.01 * 2**member}
            step = (_STEPS[generation],)
            trials.append(make_trial(index, values, lift=0.003 * (2 - member), steps=step, **more))
    best = 1 + (num_generations - 1) * size
    fields = {key: MIXED[key] for key in ("train.real_weight", "train.lr")}
    ramp = {"start": 0.6, "shape": "steps", "jumps": [[350, 0.9]]}
    return make_result(
        fields,
        **{"trials": trials, "best": best, "algorithm": "pbt", "stopping": "none", "importance": None, "failed": []},
        **{"best_values": {"train.real_weight": 0.9, "train.real_weight_ramp": ramp}, "confirmation": None},
        pareto=[best],
    )


def _figures(lift: float, std: float) -> dict[str, float]:
    means = {key: value + (-lift if key == "val_accuracy" else lift) / 2 for key, value in _METRICS.items()}
    means["near_auroc"] = _METRICS["near_auroc"] + lift
    return {**means, **{f"{key}_std": std for key in means}}


def _draw(spec: Mapping[str, Any], rng: np.random.Generator) -> Any:
    if "values" in spec:
        return spec["values"][int(rng.integers(len(spec["values"])))]
    value = float(rng.uniform(spec["low"], spec["high"]))
    return round(value) if spec["kind"] == "integer" else round(value, 4)
