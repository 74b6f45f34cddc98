"""scikit-learn's digits: 1,797 real 8x8 pictures that ship with the package, some classes ID, others near-OOD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits

from sio_ray.config import PrepareConfig
from sio_ray.datasets.classes import id_and_near_classes
from sio_ray.datasets.drawn import draw_far_ood, draw_mixing, draw_outliers
from sio_ray.datasets.source import PictureSet, SourceCollection, SourceSet, ood_labels, relabelled
from sio_ray.datasets.split import split_by_class
from sio_ray.datasets.square import to_squares
from sio_ray.seeding import numpy_generator

_SIZE_PX = 8


def load_digits_source(config: PrepareConfig) -> SourceCollection:
    """Split the digits by class into ID and near-OOD, and draw the other sets at their size.

    The size is 8x8 grey whatever `image_size_px` and `channels` say.

    Args:
        config: `id_classes` (0 to 5 if not given), `near_ood_classes` (6 to 9), the fractions, the counts and the seed
            are used.

    Returns:
        Label c is digit `id_classes[c]`; the near-OOD set is named after its digits, such as `digits_6_9` for 6 to 9.

    Raises:
        ConfigError: a class that is no digit, fewer than two ID classes, no near-OOD class, or one that is on both
            sides.
    """
    id_classes, near_classes = id_and_near_classes(config, num_classes=10, default_id=range(6))
    digits = _all_digits()
    train, val, test = _split(
        digits,
        id_classes,
        (1 - config.val_fraction - config.test_fraction, config.val_fraction, config.test_fraction),
        numpy_generator(config.seed, "digits/id"),
    )
    near_val, near_test = (
        part.with_labels(ood_labels(len(part)))
        for part in _split(
            digits,
            near_classes,
            (config.val_fraction, 1 - config.val_fraction),
            numpy_generator(config.seed, "digits/near_ood"),
        )
    )
    near_name = _set_name(near_classes)
    far_val, far_test = draw_far_ood(config.images_per_ood_set, _SIZE_PX, _SIZE_PX, 1, config.seed)
    return SourceCollection(
        class_names=tuple(str(digit) for digit in id_classes),
        train=train,
        val=val,
        test=test,
        near_val={near_name: near_val},
        near_test={near_name: near_test},
        far_val=far_val,
        far_test=far_test,
        outliers=draw_outliers(config.num_outliers, _SIZE_PX, _SIZE_PX, 1, config.seed),
        mixing=draw_mixing(config.num_outliers, _SIZE_PX, _SIZE_PX, 1, config.seed),
    )


def _all_digits() -> SourceSet:
    """All pictures, labelled 0..9; their values 0..16 become 0..255, rounded half up."""
    data = load_digits()
    values = data.images.astype(np.int64)
    images = ((values * 255 + 8) // 16).astype(np.uint8)[:, None]
    paths = [f"sklearn-digits/{row:04d}" for row in range(len(images))]
    return SourceSet(images, data.target.astype(np.int64), paths)


def upscaled_digits(size_px: int, channels: int, val_fraction: float, seed: int) -> tuple[PictureSet, PictureSet]:
    """All digits at another size, as OOD: some for validation, the others for test."""
    digits = _all_digits()
    rng = numpy_generator(seed, "digits/upscaled")
    names = [f"digit {digit}" for digit in range(10)]
    val, test = (
        digits.take(rows) for rows in split_by_class(digits.labels, (val_fraction, 1 - val_fraction), rng, names)
    )
    val, test = (SourceSet.of_ood(to_squares(part.images, size_px, channels), part.paths) for part in (val, test))
    return val, test


def _split(
    digits: SourceSet, classes: Sequence[int], shares: Sequence[float], rng: np.random.Generator
) -> list[SourceSet]:
    """Keep some classes, number them from 0 in the order given, and split them by share."""
    labels = relabelled(digits.labels, classes)
    kept = np.flatnonzero(labels >= 0)
    chosen = digits.with_labels(labels).take(kept)
    names = [f"digit {digit}" for digit in classes]
    return [chosen.take(rows) for rows in split_by_class(chosen.labels, shares, rng, names)]


def _set_name(classes: Sequence[int]) -> str:
    """`digits_6_9` for a run of digits, `digits_2_and_5` for others."""
    ordered = sorted(classes)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"digits_{ordered[0]}_{ordered[-1]}"
    return "digits_" + "_and_".join(map(str, ordered))
