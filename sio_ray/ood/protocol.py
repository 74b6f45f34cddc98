"""The OpenOOD protocol as pure functions: outputs of one checkpoint to tables, and tables of all runs to means."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

import numpy as np
import pandas as pd
from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector, Setting, Sizes
from sio_ray.ood.groups import Group, OODSet
from sio_ray.ood.metrics import Float64Array, OODMetrics, auroc, ood_metrics
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Columns of metrics, in the order of every table.
METRICS = tuple(metric.name for metric in fields(OODMetrics))


@dataclass(frozen=True, eq=False, kw_only=True)
class FittingSets:
    """What one network says of the sets that detectors are fitted and chosen on.

    Attributes:
        train: real ID training set; detectors are fitted on it.
        val: ID validation set; detectors are fitted on it, and sweeps choose on it.
        val_ood: OOD validation sets; sweeps choose on them.
        last_layer: of the network; None if that is not linear.

    Raises:
        EvaluationError: an unknown group.
    """

    train: NetworkOutputs
    val: NetworkOutputs
    val_ood: Mapping[OODSet, NetworkOutputs] = field(default_factory=dict)
    last_layer: LastLayer | None = None

    def __post_init__(self) -> None:
        _check_groups(self.val_ood)


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationSets(FittingSets):
    """What one network says of all sets.

    Attributes:
        test: ID test set.
        ood: OOD test sets; tables keep this order.
        shifted: ID test images under a covariate shift, by name; for the full spectrum.

    Raises:
        EvaluationError: no OOD set, or an unknown group.
    """

    test: NetworkOutputs
    ood: Mapping[OODSet, NetworkOutputs]
    shifted: Mapping[str, NetworkOutputs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ood:
            raise EvaluationError("EvaluationSets.ood must hold an OOD set, got none; give at least one.")
        _check_groups(self.ood)


def _check_groups(sets: Iterable[tuple[str, str]]) -> None:
    for group, name in sets:
        if group not in get_args(Group):
            raise EvaluationError(
                f"EvaluationSets.ood must be in group near or far, got {group!r} for {name!r}; "
                "say how far the set is from ID."
            )


@dataclass(frozen=True, eq=False)
class DetectorEvaluation:
    """What one detector makes of one network.

    Attributes:
        metrics: group (`near` or `far`), ood_set, then the columns of `METRICS`; one row per OOD set.
        full_spectrum: the same with the shifted sets among ID; empty without such sets.
        scores: group (`id`, `id_shifted`, `near` or `far`), image_set (`test` for ID), image_id, ood_score; one row per
            image.
        setting: the options that were chosen by the sweep; empty where nothing was swept.
        sweep: every setting that was tried, in order: setting, val_auroc (the unweighted mean over validation sets).
        seconds: `fit_s`, `sweep_s`, `score_s`, `metrics_s`.
    """

    metrics: pd.DataFrame
    full_spectrum: pd.DataFrame
    scores: pd.DataFrame
    setting: dict[str, Any]
    sweep: list[dict[str, Any]]
    seconds: dict[str, float]


def evaluate_detector(detector: Detector, sets: EvaluationSets, *, sweep: bool = True) -> DetectorEvaluation:
    """Fit a detector, choose its options on the validation sets, score every test set once, and compare.

    Args:
        detector: not fitted yet, or fitted to another network; it is fitted again.
        sets: what the network says.
        sweep: choose options as OpenOOD does: of all settings in order, the first with the highest AUROC of ID against
            OOD validation images. Without it, the detector's own options are used.

    Raises:
        EvaluationError: no setting suits, there is nothing to choose on, the detector cannot be fitted, or a score is
            not finite.
    """
    clock = Clock()
    choice = choose(detector, sets, sweep=sweep, clock=clock)
    detector = choice.detector
    scored = [
        _Scored(group, name, outputs, _finite(detector.score(outputs), detector, f"{group}/{name}", outputs))
        for group, name, outputs in _test_sets(sets)
    ]
    clock.lap("score_s")
    of_id = [of_set for of_set in scored if of_set.group == "id"]
    shifted = [of_set for of_set in scored if of_set.group == "id_shifted"]
    ood = [of_set for of_set in scored if of_set.group in get_args(Group)]
    metrics = _compare(of_id, ood)
    full_spectrum = _compare([*of_id, *shifted], ood) if shifted else pd.DataFrame()
    clock.lap("metrics_s")
    scores = pd.concat([of_set.table() for of_set in scored], ignore_index=True)
    return DetectorEvaluation(metrics, full_spectrum, scores, choice.setting, choice.tried, clock.seconds)


@dataclass(frozen=True, eq=False)
class Choice:
    """A detector after its sweep.

    Attributes:
        detector: fitted, with the options that were chosen.
        setting: these options; empty where nothing was swept.
        tried: every setting that was tried, in order: setting, val_auroc.
    """

    detector: Detector
    setting: dict[str, Any]
    tried: list[dict[str, Any]]


def choose(detector: Detector, sets: FittingSets, *, sweep: bool, clock: Clock | None = None) -> Choice:
    """Fit a detector and choose its options on the validation sets; test sets are not read.

    Args:
        detector: see `evaluate_detector`.
        sets: training and validation sets.
        sweep: see `evaluate_detector`.
        clock: is told `fit_s` and `sweep_s`.

    Raises:
        EvaluationError: see `evaluate_detector`.
    """
    clock = clock or Clock()
    settings = suitable_settings(detector, Sizes.of(sets.train), sweep=sweep)
    detector = detector.with_setting(settings[0]).fit(sets.train, sets.val, sets.last_layer)
    clock.lap("fit_s")
    tried = _try_all(detector, settings, sets) if len(settings) > 1 else []
    setting = max(tried, key=lambda row: row["val_auroc"])["setting"] if tried else dict(settings[0])  # the first wins
    clock.lap("sweep_s")
    return Choice(detector.with_setting(setting), setting, tried)


@dataclass(frozen=True, eq=False)
class _Scored:
    group: str
    image_set: str
    outputs: NetworkOutputs
    scores: Float64Array

    def table(self) -> pd.DataFrame:
        columns = {"group": self.group, "image_set": self.image_set, "image_id": self.outputs.image_ids.numpy()}
        return pd.DataFrame({**columns, "ood_score": self.scores})


def _test_sets(sets: EvaluationSets) -> Iterator[tuple[str, str, NetworkOutputs]]:
    yield "id", "test", sets.test
    yield from (("id_shifted", name, outputs) for name, outputs in sets.shifted.items())
    yield from ((group, name, outputs) for (group, name), outputs in sets.ood.items())


class Clock:
    """Seconds by name, from one lap to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start_s = time.perf_counter()

    def lap(self, name: str) -> None:
        """Name the seconds since the last lap."""
        now_s = time.perf_counter()
        self.seconds[name], self._start_s = now_s - self._start_s, now_s


def suitable_settings(detector: Detector, sizes: Sizes, *, sweep: bool) -> list[Setting]:
    """The settings that are tried: those of the sweep, or the detector's own options, as far as they suit.

    Raises:
        EvaluationError: none suits.
    """
    settings: list[Setting] = [*detector.settings()] if sweep else [{}]
    refusals = [detector.with_setting(setting).refusal(sizes) for setting in settings]
    suitable = [setting for setting, refusal in zip(settings, refusals, strict=True) if refusal is None]
    if not suitable:
        remedy = f"set evaluate.detector_options.{detector.name} to what fits, or leave {detector.name} out"
        raise EvaluationError(f"{detector.name}: {refusals[0]}; {remedy}.")
    return suitable


def _try_all(detector: Detector, settings: Sequence[Setting], sets: FittingSets) -> list[dict[str, Any]]:
    if not sets.val_ood:
        raise EvaluationError(
            f"{detector.name} has {len(settings)} settings to choose from, but there is no OOD validation set; prepare "
            f"one, or set evaluate.sweep=false, or evaluate.detector_options.{detector.name}."
        )

    def scores_of(where: str, outputs: NetworkOutputs) -> list[Float64Array]:
        return [_finite(scores, detector, where, outputs) for scores in detector.score_sweep(outputs, settings)]

    of_id = scores_of("id/val", sets.val)
    of_ood = [scores_of(f"{group}/val/{name}", outputs) for (group, name), outputs in sets.val_ood.items()]
    return [
        {
            "setting": dict(setting),
            "val_auroc": float(np.mean([auroc(of_id[number], of_set[number]) for of_set in of_ood])),
        }
        for number, setting in enumerate(settings)
    ]


def _compare(of_id: Sequence[_Scored], ood: Sequence[_Scored]) -> pd.DataFrame:
    id_scores = np.concatenate([of_set.scores for of_set in of_id])
    return pd.DataFrame(
        [
            {"group": of_set.group, "ood_set": of_set.image_set, **asdict(ood_metrics(id_scores, of_set.scores))}
            for of_set in ood
        ]
    )


def id_accuracy(outputs: NetworkOutputs) -> float:
    """The share of ID images whose largest logit is their label's.

    Args:
        outputs: of an ID set.

    Returns:
        A fraction in [0, 1].

    Raises:
        EvaluationError: a label is -1, which means OOD.
    """
    unlabelled = (outputs.labels < 0).nonzero()
    if len(unlabelled):
        row = int(unlabelled[0])
        raise EvaluationError(
            f"id_accuracy.outputs must be of an ID set, got label {int(outputs.labels[row])} "
            f"for image_id {int(outputs.image_ids[row])}; give the ID test set."
        )
    return float((outputs.logits.argmax(dim=1) == outputs.labels).double().mean())


def _finite(found: Tensor, detector: Detector, where: str, outputs: NetworkOutputs) -> Float64Array:
    scores: Float64Array = found.detach().cpu().numpy().astype(np.float64)
    unusable = np.flatnonzero(~np.isfinite(scores))
    if len(unusable):
        row = int(unusable[0])
        raise EvaluationError(
            f"ood_score of {detector.name} must be finite, got {scores[row]} for image_id "
            f"{int(outputs.image_ids[row])} of {where} ({len(unusable)} of {len(scores)} images); "
            "look for features or logits that overflow."
        )
    return scores
