"""Measures a synthetic image set against a real one, overall and per class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from sio_ray.classifier.model import Classifier
from sio_ray.errors import CheckpointError, ConfigError, ImageSetError
from sio_ray.imageset import ImageSet
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.quality.agreement import LabelAgreement, label_agreement
from sio_ray.quality.frechet import fit_gaussian, frechet_distance
from sio_ray.quality.memorisation import Float64Array, Memorisation, NearestSearch, compare_distances
from sio_ray.quality.neighbours import Advance, Neighbourhood, mean_pairwise_distance, precision_recall_density_coverage
from sio_ray.quality.reading import SeenSet, pictures_at, read_set

#: Pictures of a set whose nearest training picture is sought; the cost grows with this times the training set.
MAX_COMPARED = 10_000

#: With fewer pictures than this times k, a ball around one holds a good part of the set, and says nothing.
_MIN_PICTURES_PER_NEIGHBOUR = 4

#: Synthetic pictures nearest to the training set that are shown.
_NUM_NEAREST = 10


@dataclass(frozen=True)
class Measures:
    """What was measured of a class or of the whole set; None where there is too little to measure it by.

    Attributes:
        name: of the class, or `all` or `real`.
        num_synthetic: pictures.
        num_reference: pictures.
        labels: agreement of the classifier with the labels.
        frechet_distance: in the classifier's features. Per class only where both sides have more pictures than the
            features have dimensions: with fewer, a covariance is singular and the distance is mostly its error. It is
            biased upwards the fewer the pictures are, so compare numbers of equal counts only.
        neighbourhood: precision, recall, density, coverage in these features, with at least 4k pictures on both sides.
        diversity: mean distance between two pictures of a class, over that of the reference; for the whole set, the
            mean over classes with two pictures on both sides. Below 1: pictures of a class are too much alike.
        memorisation: distances to the training set.
        num_compared: synthetic pictures that `memorisation` is about.
    """

    name: str
    num_synthetic: int
    num_reference: int
    labels: LabelAgreement | None = None
    frechet_distance: float | None = None
    neighbourhood: Neighbourhood | None = None
    diversity: float | None = None
    memorisation: Memorisation | None = None
    num_compared: int = 0

    def numbers(self) -> dict[str, float]:
        """All that was measured, by the names of the fields, such as `agreement`, `recall`, `relative_distance`."""
        parts = (self, self.labels, self.neighbourhood, self.memorisation)
        fields = {name: value for part in parts if part is not None for name, value in vars(part).items()}
        if self.memorisation is not None:
            fields["relative_distance"] = self.memorisation.relative_distance
        return {name: value for name, value in fields.items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class Quality:
    """The quality of a synthetic set.

    Attributes:
        overall: of the whole set.
        real: the yardstick: the same of real pictures. Labels are those of the reference; the rest compares a random
            half of the reference (as if it were synthetic) with the other, since an absolute number means little.
        classes: in the order of their labels.
        k: neighbours.
        num_held_out_compared: pictures of the reference that `memorisation` is about.
    """

    overall: Measures
    real: Measures
    classes: tuple[Measures, ...]
    k: int
    num_held_out_compared: int


@dataclass(frozen=True)
class Nearest:
    """What was found in the training set.

    Attributes:
        of_synthetic: (S,) float64, distances of synthetic pictures to their nearest training pictures.
        of_held_out: (K,) float64, those of pictures of the reference.
        synthetic_images: (P, C, H, W) uint8, the synthetic pictures of the smallest distances, the nearest first.
        train_images: (P, C, H, W) uint8, their nearest training pictures.
        distances: (P,) float64.
    """

    of_synthetic: Float64Array
    of_held_out: Float64Array
    synthetic_images: UInt8Array
    train_images: UInt8Array
    distances: Float64Array


def check_inputs(
    synthetic: ImageSet, reference: ImageSet, classifier: Classifier | None, train: ImageSet | None, limit: int | None
) -> None:
    """Refuse what does not fit together, before anything is read.

    Raises:
        ConfigError: neither classifier nor training set, or a limit below 1.
        ImageSetError: a set has no classes, other classes or another shape, or the reference is the training set.
        CheckpointError: the classifier is for other classes or another shape.
    """
    if classifier is None and train is None:
        raise ConfigError(
            "--classifier or --train", "given", None, "without both, only the pictures per class could be counted"
        )
    if limit is not None and limit < 1:
        raise ConfigError("--limit", "at least 1", limit, "leave it out to measure the whole set")
    info = synthetic.info
    if not info.class_names:
        raise ImageSetError(f"image set {synthetic} names no classes (it is an OOD set); give a synthetic ID set.")
    wanted = (info.class_names, info.image_shape)
    for other in (reference, train):
        if other is not None and (other.info.class_names, other.info.image_shape) != wanted:
            raise ImageSetError(
                f"image set {other} must have the classes and shape of {synthetic}, {_words(*wanted)}, "
                f"got {_words(other.info.class_names, other.info.image_shape)}; give a set of the same data."
            )
    if train is not None and train.manifest.content_id == reference.manifest.content_id:
        raise ImageSetError(
            f"--reference must be pictures that the generator never saw, got the training set {train}; "
            "give id/val or id/test, or leave out --train."
        )
    if classifier is not None:
        known = classifier.architecture
        if (known.class_names, known.image_shape) != wanted:
            raise CheckpointError(
                f"the classifier must be for the classes and shape of {synthetic}, {_words(*wanted)}, "
                f"got {_words(known.class_names, known.image_shape)}; give one that was trained on the same data."
            )


def measure(
    synthetic: ImageSet,
    reference: ImageSet,
    *,
    classifier: Classifier | None,
    train: ImageSet | None,
    limit: int | None = None,
    k: int = 5,
    device: str = "cpu",
    bars: Progress,
) -> tuple[Quality, Nearest | None]:
    """Measure all that can be measured with what is given.

    Args:
        synthetic: the set to judge.
        reference: real pictures of the same classes.
        classifier: trained on real pictures; without it there is only memorisation.
        train: what the generator was fitted to; without it there is no memorisation.
        limit: only the synthetic pictures with the `limit` lowest ids, balanced over classes.
        k: neighbours, at least 1.
        device: where to compute.
        bars: shows how far it is.

    Returns:
        The measures, and what was found in the training set if there is one.

    Raises:
        ConfigError, ImageSetError, CheckpointError: see `check_inputs`; a set cannot be read.
        EvaluationError: a feature or logit is not finite.
    """
    check_inputs(synthetic, reference, classifier, train, limit)
    if classifier is not None:
        classifier.to(device)
    num_kept = 0 if train is None else MAX_COMPARED

    def read(name: str, image_set: ImageSet, limit: int | None) -> SeenSet:
        total = image_set.count(limit)
        advance = _bar(bars, name, total)
        return read_set(image_set, limit=limit, num_kept=num_kept, classifier=classifier, advance=advance)

    seen, real = read("synthetic", synthetic, limit), read("reference", reference, None)
    nearest = None if train is None else _search(seen, real, train, device, _bar(bars, "nearest", len(train)))
    # Twice each pair of sets, as a whole and class by class, and the two halves.
    advance = _bar(bars, "neighbours", 2 * (len(seen) + 2 * len(real)) + len(real) // 2 + 2 * -(-len(real) // 2))
    sides = _Sides(seen, real, nearest, synthetic.info.class_names, k, device, advance)
    overall = sides.measures("all", None)
    classes = [sides.measures(name, label) for label, name in enumerate(synthetic.info.class_names)]
    spreads = [measures.diversity for measures in classes if measures.diversity is not None]
    quality = Quality(
        overall=replace(overall, diversity=float(np.mean(spreads)) if spreads else None),
        real=sides.yardstick(),
        classes=tuple(classes),
        k=k,
        num_held_out_compared=len(real.kept),
    )
    return quality, nearest


@dataclass(frozen=True)
class _Sides:
    """Both sets after reading, and how to compare them."""

    synthetic: SeenSet
    reference: SeenSet
    nearest: Nearest | None
    class_names: tuple[str, ...]
    k: int
    device: str
    advance: Advance

    def measures(self, name: str, label: int | None) -> Measures:
        """Of one class, or of the whole sets; without the diversity of the whole."""
        here, there = self.synthetic.rows(label), self.reference.rows(label)
        measures = Measures(name, len(self.synthetic.labels[here]), len(self.reference.labels[there]))
        if self.nearest is not None:
            of_synthetic = self.nearest.of_synthetic[self.synthetic.kept_rows(label)]
            of_held_out = self.nearest.of_held_out[self.reference.kept_rows(label)]
            if len(of_synthetic) and len(of_held_out):
                copy_distance = float(self.nearest.of_held_out.min())
                memorisation = compare_distances(of_synthetic, of_held_out, copy_distance)
                measures = replace(measures, memorisation=memorisation, num_compared=len(of_synthetic))
        outputs, real = self.synthetic.outputs, self.reference.outputs
        if outputs is None or real is None or not measures.num_synthetic:
            return measures
        features, real_features = outputs.features[here], real.features[there]
        return replace(
            measures,
            labels=self._labels(self.synthetic, here),
            frechet_distance=_frechet(features, real_features, 2 if label is None else features.shape[1] + 1),
            neighbourhood=self._neighbourhood(features, real_features),
            diversity=None if label is None else self._diversity(features, real_features),
        )

    def yardstick(self) -> Measures:
        """Real against real; the pictures of a class lie in both halves by chance."""
        order = torch.randperm(len(self.reference), generator=torch.Generator().manual_seed(0))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        measures = Measures("real", len(first), len(second))
        if self.reference.outputs is None:
            return measures
        halves = self.reference.outputs.features[first], self.reference.outputs.features[second]
        return replace(
            measures,
            labels=self._labels(self.reference, slice(None)),
            frechet_distance=_frechet(*halves, 2),
            neighbourhood=self._neighbourhood(*halves),
        )

    def _labels(self, seen: SeenSet, rows: Tensor | slice) -> LabelAgreement:
        assert seen.outputs is not None, "there is a classifier"
        predicted, confidence = seen.outputs.predicted[rows], seen.outputs.confidence[rows]
        return label_agreement(predicted, confidence, seen.labels[rows], self.class_names)

    def _neighbourhood(self, features: Tensor, reference: Tensor) -> Neighbourhood | None:
        if min(len(features), len(reference)) < _MIN_PICTURES_PER_NEIGHBOUR * self.k:
            self.advance(len(features) + 2 * len(reference))
            return None
        return precision_recall_density_coverage(
            features, reference, k=self.k, device=self.device, advance=self.advance
        )

    def _diversity(self, features: Tensor, reference: Tensor) -> float | None:
        if min(len(features), len(reference)) < 2:
            return None
        of_reference = mean_pairwise_distance(reference, device=self.device)
        return mean_pairwise_distance(features, device=self.device) / of_reference if of_reference else None


def _frechet(features: Tensor, reference: Tensor, min_pictures: int) -> float | None:
    if min(len(features), len(reference)) < min_pictures:
        return None
    return frechet_distance(fit_gaussian(features), fit_gaussian(reference))


def _search(synthetic: SeenSet, reference: SeenSet, train: ImageSet, device: str, advance: Advance) -> Nearest:
    of_synthetic, of_held_out = (NearestSearch(seen.images, device) for seen in (synthetic, reference))
    for shard in train.shards():
        of_synthetic.add(shard.images)
        of_held_out.add(shard.images)
        advance(len(shard))
    closest = np.argsort(of_synthetic.distances, kind="stable")[:_NUM_NEAREST]
    return Nearest(
        of_synthetic=of_synthetic.distances,
        of_held_out=of_held_out.distances,
        synthetic_images=synthetic.images[closest],
        train_images=pictures_at(train, of_synthetic.positions[closest]),
        distances=of_synthetic.distances[closest],
    )


def _bar(bars: Progress, name: str, total: int) -> Advance:
    task = bars.add_task(name, total=total, unit="pictures", note="")
    return lambda count: bars.advance(task, count)


def _words(class_names: tuple[str, ...], shape: tuple[int, int, int]) -> str:
    names = ", ".join(class_names[:6]) + (", ..." if len(class_names) > 6 else "")
    return f"{len(class_names)} classes ({names}) of {shape}"
