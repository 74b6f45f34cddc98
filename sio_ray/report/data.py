"""What a report is made of; gathered by the report stage, drawn by the rest of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from sio_ray.config import Config
from sio_ray.imageset.pictures import UInt8Array


@dataclass(frozen=True)
class Curve:
    """A training curve.

    Attributes:
        name: what trained, such as `sio, seed 0` or `generator`.
        arm: `baseline`, `sio` or `generator`.
        points: one dict per report: `step`, `loss` and whatever else was measured then (`val_accuracy`).
    """

    name: str
    arm: str
    points: list[dict[str, float]]


@dataclass(frozen=True)
class ClassGrid:
    """Pictures of one class (or of one OOD set) in a row.

    Attributes:
        name: of the class or set.
        real: (K, C, H, W) uint8, from the real training set (or the OOD set).
        synthetic: (K, C, H, W) uint8, drawn by the generator; None for an OOD set.
        agreement: share of the synthetic images of the class that the real-trained classifiers give its label;
            None for an OOD set.
    """

    name: str
    real: UInt8Array
    synthetic: UInt8Array | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class StageTime:
    """How long a stage took when it last did work.

    Attributes:
        stage: its name.
        wall_s: seconds.
        output: its folder, relative to the run's.
    """

    stage: str
    wall_s: float
    output: str


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        title: heading.
        config: the whole config.
        metrics: one row per (arm, seed, detector, group, ood_set) with `auroc`, `fpr_at_95_tpr`, `aupr_out`, `aupr_in`
            in [0, 1]; `group` is `near` or `far`.
        id_accuracy: one row per (arm, seed) with `accuracy` in [0, 1], on the ID test set.
        scores: one row per (arm, seed, detector, group, image_set, image_id) with `ood_score`; group `id` is the ID
            test set.
        class_grids: real beside synthetic, one per class.
        ood_grids: examples of every OOD test set.
        quality: of the synthetic set: `label_agreement` in [0, 1] (mean over the real-trained classifiers),
            `num_synthetic`, `num_real`, and of the memorisation check `median_distance_synthetic`,
            `median_distance_held_out` (nearest training image, root mean square per pixel in [0, 1]), `num_copies` and
            `copy_distance` (the smallest held-out distance; nearer than this is a copy).
        classifier_curves: one per training run.
        generator_curve: loss of the generator; None where the generator was given.
        stage_times: one per stage.
        provenance: `versions` (package to version), `machine` (such as `2 CPU cores, no GPU`), `date`, `git_commit`.
        commands: shell commands that make this report again.
    """

    title: str
    config: Config
    metrics: pd.DataFrame
    id_accuracy: pd.DataFrame
    scores: pd.DataFrame
    class_grids: list[ClassGrid]
    ood_grids: list[ClassGrid]
    quality: dict[str, float]
    classifier_curves: list[Curve]
    generator_curve: Curve | None
    stage_times: list[StageTime]
    provenance: dict[str, Any]
    commands: list[str]
