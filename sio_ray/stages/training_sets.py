"""The image sets that a config trains on: found, and seen to fit each other, before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from sio_ray.classifier.algorithms import check_algorithm
from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.networks import check_network
from sio_ray.classifier.schedules import ramped
from sio_ray.config import Config, TrainConfig
from sio_ray.errors import ConfigError, ImageSetError, StageError
from sio_ray.imageset import ImageSet, Manifest
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.storage import Folder
from sio_ray.stages.layout import Arm, Run, generate_place, synthetic_set_uri
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import read_record, require

#: A probability below which counts of classes are of no mixed order.
_BEYOND_DOUBT = 1e-6


@dataclass(frozen=True)
class TrainingSets:
    """What training reads.

    Attributes:
        real: ID training set.
        val: ID validation set.
        synthetic: None where no arm trains on it.
        num_synthetic: its images in use, those of the lowest ids.
        outliers: pictures of no class; None where the algorithm needs none.
        mixing: pictures to mix in; None likewise.
    """

    real: ImageSet
    val: ImageSet
    synthetic: ImageSet | None
    num_synthetic: int
    outliers: ImageSet | None
    mixing: ImageSet | None

    def sources(self, arm: Arm) -> dict[str, tuple[str, int | None]]:
        """What an arm's batches are made of: source to URI and number of images, None for all."""
        sets = {"real": self.real, "outliers": self.outliers, "mixing": self.mixing}
        sources: dict[str, tuple[str, int | None]] = {name: (found.uri, None) for name, found in sets.items() if found}
        if arm == "sio" and self.synthetic is not None:
            sources["synthetic"] = (self.synthetic.uri, self.num_synthetic)
        return sources


def open_training_sets(config: Config, needed_by: str, *, with_synthetic: bool) -> TrainingSets:
    """Open the sets that a config trains on.

    Args:
        config: whose `prepare`, and `generate` where it draws the synthetic set, have run.
        needed_by: the stage that asks, for the message.
        with_synthetic: an arm trains on synthetic images.

    Raises:
        StageError: an earlier stage has not run for this config, or another config has drawn into its set's folder.
        ImageSetError: a set is missing or unfinished, or differs from the real one in classes or picture size.
        ConfigError: the network cannot take the pictures, or `train.synthetic_ratio` asks for more images than there
            are.
    """
    section = config.train
    prepared = PreparedSets(config, needed_by)
    real = prepared.open("id/train")
    algorithm = check_algorithm(section.algorithm, section.algorithm_options)
    shape = Augmentation.of(section).output_shape(real.info.image_shape)
    check_network(section.network, section.width, section.pretrained, shape, algorithm.head)
    synthetic = _open_synthetic(config, real, needed_by) if with_synthetic else None

    further = further_sets(config, prepared)
    for found in further.values():
        _check_shape(found, real, f"bring {found} to the size of the real set")
    return TrainingSets(
        real=real,
        val=prepared.open("id/val"),
        synthetic=synthetic,
        num_synthetic=synthetic_images(config, real, synthetic) if synthetic else 0,
        outliers=further.get("outliers"),
        mixing=further.get("mixing"),
    )


def refuse_another_set(config: Config, runs: Sequence[Run]) -> None:
    """See that the synthetic set of finished runs is still what they were trained on; one that is gone cannot differ.

    Args:
        config: whose runs.
        runs: finished or not.

    Raises:
        StageError: another set has taken its place.
    """
    records = [(run, read_record(run.place.folder)) for run in runs if run.arm == "sio"]
    trained_on = [(run, record.result.get("synthetic_content_id")) for run, record in records if record is not None]
    folder = Folder(synthetic_set_uri(config))
    if not any(content_id for _, content_id in trained_on) or not folder.exists(MANIFEST_NAME):
        return
    here = Manifest.read(folder).content_id
    for run, content_id in trained_on:
        if content_id not in (None, here):
            raise StageError(
                f"{run.name} was trained on another set than {folder.safe_uri} holds by now; put that set back, or "
                f"delete {run.place.folder} to train it anew."
            )


def further_sets(config: Config, prepared: PreparedSets) -> dict[str, ImageSet]:
    """The sets that the algorithm trains on beside real and synthetic images: `outliers`, `mixing`, or none."""
    section = config.train
    sets = {"outliers": (section.outlier_set, "outlier_exposure"), "mixing": (section.mixing_set, "mixing")}
    needs = check_algorithm(section.algorithm, section.algorithm_options).needs
    return {
        need: prepared.open(name) if given is None else ImageSet(given)
        for need, (given, name) in sets.items()
        if need in needs
    }


def pool_sizes(section: TrainConfig, num_real: int, num_synthetic: int) -> Callable[[int], int]:
    """Step to the number of synthetic images in use, which `train.synthetic_ratio_ramp` may change.

    Args:
        section: recipe, with `num_steps` resolved.
        num_real: size of the real set.
        num_synthetic: the most that are in use.
    """
    ramp = section.synthetic_ratio_ramp
    end = num_synthetic / num_real if section.synthetic_ratio is None else section.synthetic_ratio

    def pool_size(step: int) -> int:
        wanted = round(ramped(end, ramp, step, section.num_steps) * num_real)
        return min(num_synthetic, max(1, wanted))

    return pool_size


def _open_synthetic(config: Config, real: ImageSet, needed_by: str) -> ImageSet:
    drawn = None
    if config.train.synthetic_set is None:
        drawn = require(generate_place(config).folder, "generate", needed_by).result["content_id"]
    synthetic = ImageSet(synthetic_set_uri(config))
    if drawn is not None and drawn != synthetic.manifest.content_id:
        raise StageError(
            f"{needed_by} needs the set that generate drew for this config, and {synthetic} holds another one by now; "
            "run `sio-ray generate` with the same config, which says what has changed."
        )
    _check_shape(synthetic, real, "draw or import the synthetic set at the size of the real one")
    ours, theirs = real.info, synthetic.info
    if ours.class_names != theirs.class_names:
        raise ImageSetError(
            f"classes of {synthetic} are {list(theirs.class_names)}, of the real set {list(ours.class_names)}; "
            "give a synthetic set with the same classes in the same order."
        )
    empty = [theirs.class_names[c] for c, count in enumerate(synthetic.manifest.class_counts) if count == 0]
    if empty:
        raise ImageSetError(
            f"{synthetic} has no image of class {', '.join(empty)}; "
            f"{_more(config, ours.num_classes, ours.num_classes / len(real))}."
        )
    return synthetic


def _check_shape(other: ImageSet, real: ImageSet, remedy: str) -> None:
    if other.info.image_shape != real.info.image_shape:
        raise ImageSetError(
            f"pictures of {other} are {other.info.image_shape} (channels, height, width), real ones are "
            f"{real.info.image_shape}; {remedy}."
        )


def synthetic_images(config: Config, real: ImageSet, synthetic: ImageSet) -> int:
    """How many synthetic images `train.synthetic_ratio`, or its ramp, asks for at the most: those of the lowest ids.

    Raises:
        ConfigError: more than there are, none although their weight is not 0, or a part of a given set that is in the
            order of its classes.
    """
    wanted = _asked_for(config, real, synthetic)
    if config.train.synthetic_set is not None:
        ramp = config.train.synthetic_ratio_ramp
        parts = {wanted, *(round(value * len(real)) for _, value in (ramp.values if ramp else ()))}
        for part in sorted(parts - {0}):
            _check_mixed(synthetic, part)
    return wanted


def _asked_for(config: Config, real: ImageSet, synthetic: ImageSet) -> int:
    section = config.train
    ratio, ramp = section.synthetic_ratio, section.synthetic_ratio_ramp
    if ratio is None and (ramp is None or max(value for _, value in ramp.values) <= len(synthetic) / len(real)):
        return len(synthetic)
    asked = {"train.synthetic_ratio": ratio or 0.0}
    for name, value in ramp.values if ramp else ():
        asked[f"train.synthetic_ratio_ramp.{name}"] = max(value, asked.get(f"train.synthetic_ratio_ramp.{name}", 0.0))
    field, most = max(asked.items(), key=lambda pair: pair[1])
    wanted = round(most * len(real))
    if wanted > len(synthetic):
        raise ConfigError(
            field,
            f"at most {len(synthetic) / len(real):.4g} ({len(synthetic)} images in {synthetic})",
            most,
            f"{_more(config, wanted, most)}, or lower it",
        )
    if wanted == 0 and section.batch_share < 1:
        raise ConfigError(
            "train.synthetic_ratio",
            "greater than 0 while train.real_batch_share is below 1",
            ratio,
            "raise it, or train with train.arms=[baseline]",
        )
    return wanted


def _more(config: Config, num_images: int, ratio: float) -> str:
    """How to get so many synthetic images."""
    if config.train.synthetic_set is not None:
        return "give a set with more"
    if config.generate.num_images is not None:
        return f"draw more with generate.num_images={num_images}"
    return f"draw more with generate.synthetic_ratio={ratio:g}"


def _check_mixed(synthetic: ImageSet, num_images: int) -> None:
    """Refuse to train on a part of a set that is in the order of its classes; what `generate` drew never is.

    Raises:
        ConfigError: the classes of the part are not those of the whole, as a chi-squared test tells beyond doubt.
    """
    counts = np.array(synthetic.manifest.class_counts)
    found = np.bincount(synthetic.read_labels(num_images), minlength=len(counts))
    expected = counts * (num_images / counts.sum())
    # As scipy.stats.chisquare, whose import takes a quarter of a stage's start.
    if chdtrc(len(counts) - 1, ((found - expected) ** 2 / expected).sum()) < _BEYOND_DOUBT:
        few = ", ".join(
            f"{found[c]} of class {synthetic.info.class_names[c]}" for c in np.argsort(found, kind="stable")[:2]
        )
        raise ConfigError(
            "train.synthetic_set",
            f"of mixed classes where a ratio takes a part of it (its first {num_images} images hold {few})",
            str(synthetic),
            "leave out train.synthetic_ratio, or import the set from folders, which mixes them",
        )
