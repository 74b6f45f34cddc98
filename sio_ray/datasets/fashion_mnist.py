"""Fashion-MNIST (arXiv:1708.07747): 70,000 grey pictures of clothes at 28 px, some classes ID, others near-OOD."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sio_ray.config import PrepareConfig
from sio_ray.datasets.classes import id_and_near_classes
from sio_ray.datasets.digits import upscaled_digits
from sio_ray.datasets.drawn import draw_far_ood, draw_mixing, draw_outliers
from sio_ray.datasets.idx import read_idx
from sio_ray.datasets.published import PublishedFile, find
from sio_ray.datasets.source import SourceCollection, SourceSet, ood_labels, relabelled
from sio_ray.datasets.split import split_by_class
from sio_ray.errors import ImageSetError
from sio_ray.seeding import numpy_generator

_SIZE_PX = 28

#: Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

CLASS_NAMES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

_ID_CLASSES = (0, 1, 3, 4, 5, 7, 8)

_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"


def _file(name: str, md5: str, debian_md5: str) -> PublishedFile:
    return PublishedFile(f"{_URL}/{name}-ubyte.gz", md5, (debian_md5,))


#: Part to its pictures and labels. The first checksum is torchvision's; Debian packs the same bytes anew.
FILES = {
    "train": (
        _file("train-images-idx3", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "cf8536b0aa1a6ac5fa3f23001093305c"),
        _file("train-labels-idx1", "25c81989df183df01b3e8a0aad5dffbe", "10bea18fdb374794d4bb42e356e600c9"),
    ),
    "test": (
        _file("t10k-images-idx3", "bef4ecab320f06d8554ea6380940ec79", "f78720b4224f21cce2f2ccf2d7a94c9a"),
        _file("t10k-labels-idx1", "bb300cfdad3c16e7a12a480ee83cd310", "0d30e22e447f3c33dab9ed536400ac01"),
    ),
}


def load_fashion_mnist(config: PrepareConfig) -> SourceCollection:
    """Divide the classes into ID and near-OOD, and draw the other sets at their size.

    Validation pictures are a share of the published training set, ID and near-OOD alike; its other near-OOD pictures
    are not used. The published test set is the test set. Far-OOD are scikit-learn's digits, enlarged, and letters,
    photo patches and noise.

    Args:
        config: `root` (Debian's folder, if there is one and no other is given), `download`, `id_classes` (0, 1, 3, 4,
            5, 7, 8 if not given), `near_ood_classes` (the others), `val_fraction`, the counts and the seed are used.

    Raises:
        ConfigError: a class that is none, fewer than two ID classes, no near-OOD class, or one that is on both sides.
        ImageSetError: a file is missing, or another than was published.
        ResourceError: it cannot be downloaded.
    """
    id_classes, near_classes = id_and_near_classes(config, num_classes=len(CLASS_NAMES), default_id=_ID_CLASSES)
    folder = _folder(config)
    published = {part: _read(folder, part, config) for part in FILES}
    shares = (1 - config.val_fraction, config.val_fraction)
    rows = split_by_class(
        published["train"].labels, shares, numpy_generator(config.seed, "fashion_mnist/train"), CLASS_NAMES
    )
    train, val = (published["train"].take(part) for part in rows)
    test = published["test"]
    near_name = "_".join(["classes", *map(str, sorted(near_classes))])
    shape = (_SIZE_PX, _SIZE_PX, 1, config.seed)
    far_val, far_test = draw_far_ood(config.images_per_ood_set, *shape)
    digits_val, digits_test = upscaled_digits(_SIZE_PX, 1, config.val_fraction, config.seed)
    return SourceCollection(
        class_names=tuple(CLASS_NAMES[label] for label in id_classes),
        train=_of_classes(train, id_classes),
        val=_of_classes(val, id_classes),
        test=_of_classes(test, id_classes),
        near_val={near_name: _ood_of_classes(val, near_classes)},
        near_test={near_name: _ood_of_classes(test, near_classes)},
        far_val={"digits": digits_val, **far_val},
        far_test={"digits": digits_test, **far_test},
        outliers=draw_outliers(config.num_outliers, *shape),
        mixing=draw_mixing(config.num_outliers, *shape),
    )


def _folder(config: PrepareConfig) -> Path:
    """Where the files are, or where they are downloaded to."""
    if config.root is not None:
        return config.root / "FashionMNIST" / "raw"  # as torchvision keeps them
    if not DEBIAN_FOLDER.is_dir():
        raise ImageSetError(
            f"there is no {DEBIAN_FOLDER}; install Debian's package dataset-fashion-mnist, or set prepare.root=data "
            "prepare.download=true."
        )
    return DEBIAN_FOLDER


def _read(folder: Path, part: str, config: PrepareConfig) -> SourceSet:
    """One published part, labelled 0..9."""
    image_path, label_path = (find(file, folder, download=config.download) for file in FILES[part])
    images, labels = read_idx(image_path, 3)[:, None], read_idx(label_path, 1).astype(np.int64)
    if len(images) != len(labels):
        raise ImageSetError(
            f"{image_path} has {len(images):,} pictures, {label_path} {len(labels):,} labels; fetch both again."
        )
    return SourceSet(images, labels, [f"fashion-mnist/{part}/{row:05d}" for row in range(len(images))])


def _of_classes(whole: SourceSet, classes: tuple[int, ...]) -> SourceSet:
    """Keep some classes, and number them from 0 in the order given."""
    labels = relabelled(whole.labels, classes)
    return whole.with_labels(labels).take(np.flatnonzero(labels >= 0))


def _ood_of_classes(whole: SourceSet, classes: tuple[int, ...]) -> SourceSet:
    part = _of_classes(whole, classes)
    return part.with_labels(ood_labels(len(part)))
