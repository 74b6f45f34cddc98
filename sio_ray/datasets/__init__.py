"""Where real images come from: one file per source, and the sets that are drawn because no data is needed for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sio_ray.config import PrepareConfig
from sio_ray.datasets.cifar import load_cifar
from sio_ray.datasets.digits import load_digits_source
from sio_ray.datasets.fashion_mnist import load_fashion_mnist
from sio_ray.datasets.image_folder import load_image_folder
from sio_ray.datasets.imagenet import load_imagenet
from sio_ray.datasets.openood import load_openood
from sio_ray.datasets.source import FileSet, Int64Array, PictureSet, SourceCollection, SourceSet
from sio_ray.errors import ImageSetError
from sio_ray.seeding import numpy_generator

#: Loader of each `prepare.source`.
SOURCES: dict[str, Callable[[PrepareConfig], SourceCollection]] = {
    "digits": load_digits_source,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "imagenet": load_imagenet,
    "openood": load_openood,
    "image_folder": load_image_folder,
}


def load_source(config: PrepareConfig) -> SourceCollection:
    """Find all real sets of the source that the config names; pictures in files are not opened yet.

    The training set, or the share of it that is asked for, comes in a random order, drawn from the seed: training that
    streams shuffles within a window, so of a set sorted by class it would see batches of few classes.

    Raises:
        ConfigError: a field does not fit the source.
        ImageSetError: pictures are missing, or too few; a class has none.
        ResourceError: a file cannot be downloaded.
    """
    collection = SOURCES[config.source](config)
    for part, pictures in (("training", collection.train), ("validation", collection.val), ("test", collection.test)):
        missing = np.flatnonzero(np.bincount(pictures.labels, minlength=len(collection.class_names)) == 0)
        if len(missing):
            names = ", ".join(collection.class_names[label] for label in missing[:5]) + ", ..." * (len(missing) > 5)
            raise ImageSetError(
                f"the {part} set of source {config.source} has no picture of class {names}; add some, or drop "
                "the class."
            )
    order = numpy_generator(config.seed, "training order").permutation(len(collection.train))
    kept = _first_of_each_class(collection.train.labels[order], config.train_fraction)
    return replace(collection, train=collection.train.take(order[kept]))


def _first_of_each_class(labels: Int64Array, share: float) -> Int64Array:
    """Rows, ascending, of the first share of every class, rounded, and of one image at least."""
    of_classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in of_classes]))


__all__ = ["SOURCES", "FileSet", "PictureSet", "SourceCollection", "SourceSet", "load_source"]
