"""What a report is made of; gathered by the report stage, drawn by the rest of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        real: (K, C, H, W) uint8, from the real training set (or the OOD set); None for a class that is not shown.
        synthetic: (K, C, H, W) uint8, drawn by the generator; None for an OOD set.
        agreement: share of the synthetic images of the class that the real-trained classifiers give its label;
            None for an OOD set.
    """

    name: str
    real: UInt8Array | None
    synthetic: UInt8Array | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Mistake:
    """An image that a detector takes for the other kind.

    Attributes:
        picture: (C, H, W) uint8.
        name: of its OOD set, or of its class if it is ID.
        image_id: in its set.
        passed: for an OOD image, the share of ID test images that look more OOD; for an ID image, the share of OOD
            images, every set weighed the same, that look more ID.
    """

    picture: UInt8Array
    name: str
    image_id: int
    passed: float


@dataclass(frozen=True)
class Mistakes:
    """The worst mistakes of the shown detector in one run, worst first.

    Attributes:
        arm: of the run.
        seed: of the run.
        group: `near` and `far` hold the most ID-looking OOD images, `id` the most OOD-looking ID images.
        images: those.
    """

    arm: str
    seed: int
    group: str
    images: Sequence[Mistake]


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
class Evaluation:
    """The figures of one evaluation; enough for tables, files of numbers, and a comparison of several.

    Attributes:
        name: of the run; different for each of a comparison.
        metrics: one row per (arm, seed, detector, group, ood_set) with `auroc`, `fpr_at_95_tpr`, `aupr_out`, `aupr_in`
            and `fpr_at_95_id_tpr` in [0, 1] (an older one lacks the last); `group` is `near` or `far`. A method stands
            in place of its detector, where methods were evaluated.
        id_accuracy: one row per (arm, seed) with `accuracy` in [0, 1], on the ID test set; may have no row. Where
            methods were evaluated, one per (arm, seed, detector) too.
        full_spectrum: rows as in `metrics`, with covariate-shifted ID images among ID too; empty if not asked for.
        config: the whole config; None where the evaluation was not made from one that this version reads.
        titles: detector to how a paper's table calls it; a detector that is not in here goes by its name.
        papers: detector to where it is from.
        settings: one dict per (arm, seed, detector) with the chosen `setting` and its `val_auroc`.
        sweeps: the same for every setting that was tried.
        costs: one dict per (arm, seed, detector) with `fit_s`, `sweep_s`, `score_s` and `metrics_s`.
        extraction: `seconds` and `num_images` of the passes through networks; empty if not recorded.
        overlaps: one dict per pair of a test set and one that was trained on that share images: `ood_set` (or
            the ID test set), `other_set`, `num_images`; None if nobody looked.
        failed: detector that could not score every network, and is in no figure, to the reason.
        provenance: `versions` (package to version), `machine` (such as `2 CPU cores, no GPU`), `date`, `git_commit`.
        commands: shell commands that make this report again.
    """

    name: str
    metrics: pd.DataFrame
    id_accuracy: pd.DataFrame
    full_spectrum: pd.DataFrame = field(default_factory=pd.DataFrame)
    config: Config | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    papers: Mapping[str, str] = field(default_factory=dict)
    settings: Sequence[Mapping[str, Any]] = ()
    sweeps: Sequence[Mapping[str, Any]] = ()
    costs: Sequence[Mapping[str, Any]] = ()
    extraction: Mapping[str, float] = field(default_factory=dict)
    overlaps: Sequence[Mapping[str, Any]] | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()

    @property
    def trained_here(self) -> bool:
        """Whether `config.train` says how the networks came to be; published ones or mere outputs may be given."""
        return self.config is not None and not (self.config.evaluate.checkpoints or self.config.evaluate.outputs)

    def title_of(self, detector: str) -> str:
        """How to call a detector in print."""
        return self.titles.get(detector, detector)


@dataclass(frozen=True)
class SearchSummary:
    """What one search of the experiment found.

    Attributes:
        page: of the search, relative to the run's folder.
        finished: date and time, UTC.
        objective: metric, in print.
        num_trials: beside the baseline.
        values: what the best changes in the config; empty if nothing beat the baseline.
        gain: of the best over the baseline in the objective, a fraction, on validation sets.
        confirmed_gain: the same with fresh seeds; None if that was not asked for.
        confirmed_std: its standard deviation over seeds; None likewise, and of one seed.
    """

    page: str
    finished: str
    objective: str
    num_trials: int
    values: Mapping[str, Any]
    gain: float
    confirmed_gain: float | None
    confirmed_std: float | None


@dataclass(frozen=True, kw_only=True)
class ReportData(Evaluation):
    """Everything that the page of one evaluation shows; what is empty is named as missing there.

    Attributes:
        title: heading.
        detector: whose curves, densities and mistakes are shown.
        scores: of that detector, one row per (arm, seed, group, image_set, image_id) with `ood_score`; group `id` is
            the ID test set.
        class_grids: real beside synthetic, one per class.
        ood_grids: examples of every OOD test set.
        mistakes: of the first seed of each arm.
        projection: one row per image of a sample, (arm, seed, group, image_set, x, y), group `train`, `id`, `near` or
            `far`: features on the first two principal axes of the training set's; None if not recorded.
        explained_variance: (arm, seed) to the shares of variance on these axes.
        quality: of the synthetic set: `label_agreement` in [0, 1] (mean over the real-trained classifiers),
            `num_synthetic`, `num_real`, and of the memorisation check `num_compared` (of the synthetic images; all if
            missing), `median_distance_synthetic`, `median_distance_held_out` (nearest training image, root mean
            square per pixel in [0, 1]), `num_copies` and `copy_distance` (the smallest held-out distance; nearer than
            this is a copy).
        classifier_curves: one per training run.
        generator_curve: loss of the generator; None where the generator was given.
        stage_times: one per stage.
        searches: of the experiment.
    """

    title: str
    detector: str
    scores: pd.DataFrame
    class_grids: Sequence[ClassGrid] = ()
    ood_grids: Sequence[ClassGrid] = ()
    mistakes: Sequence[Mistakes] = ()
    projection: pd.DataFrame | None = None
    explained_variance: Mapping[tuple[str, int], Sequence[float]] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    classifier_curves: Sequence[Curve] = ()
    generator_curve: Curve | None = None
    searches: Sequence[SearchSummary] = ()
    stage_times: Sequence[StageTime] = ()
