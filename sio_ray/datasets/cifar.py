"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), each with the other as near-OOD, from their binary versions."""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sio_ray.config import PrepareConfig
from sio_ray.datasets.drawn import draw_mixing, draw_outliers
from sio_ray.datasets.ood_sets import check_names, load_far_ood
from sio_ray.datasets.published import PublishedFile, find
from sio_ray.datasets.source import PictureSet, SourceCollection, SourceSet, ood_labels
from sio_ray.datasets.split import split_by_class
from sio_ray.datasets.tiny_imagenet import load_tiny_imagenet
from sio_ray.errors import ConfigError, ImageSetError
from sio_ray.seeding import numpy_generator

_SIZE_PX, _CHANNELS = 32, 3
_PIXEL_BYTES = _CHANNELS * _SIZE_PX * _SIZE_PX

_FAR_OOD = ("mnist", "svhn", "textures", "places365")


@dataclass(frozen=True)
class Archive:
    """How one of the two is packed; a record is its labels, one byte each, then its pixels.

    Attributes:
        file: the archive.
        folder: in it.
        train: names of the training files.
        test: name of the test file.
        class_names: name of the file of class names, one a line.
        num_label_bytes: labels of a record; the last one is its class.
    """

    file: PublishedFile
    folder: str
    train: tuple[str, ...]
    test: str
    class_names: str
    num_label_bytes: int


#: Binary versions with the checksums of the authors' page; the Python versions are pickles, which run what they say.
ARCHIVES = {
    "cifar10": Archive(
        PublishedFile("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        class_names="batches.meta.txt",
        num_label_bytes=1,
    ),
    "cifar100": Archive(
        PublishedFile("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        class_names="fine_label_names.txt",
        num_label_bytes=2,
    ),
}

_OTHER = {"cifar10": "cifar100", "cifar100": "cifar10"}


def load_cifar(config: PrepareConfig) -> SourceCollection:
    """Read the archives in `root`, and the OOD sets that are asked for.

    The test set is divided, class by class, into validation (`val_fraction`; 0.1 gives the sizes of OpenOOD, 1,000 and
    9,000) and test; so is the other CIFAR's, which is near-OOD. Which picture is where follows from the seed; OpenOOD's
    own lists are read by the source `openood`. By default far-OOD is MNIST, SVHN, Textures and Places365, whole and for
    test alone, and Tiny ImageNet (`tin`) is no near-OOD set, as outlier exposure trains on it.

    Args:
        config: `root`, `download`, `near_ood_sets`, `far_ood_sets`, `outliers`, `val_fraction`, the counts and the seed
            are used.

    Raises:
        ConfigError: no OOD set of that name, or Tiny ImageNet both as near-OOD and for outlier exposure.
        ImageSetError: a file is missing, or another than was published.
        ResourceError: it cannot be downloaded.
    """
    assert config.root is not None, "checked by the config"
    root, other = config.root.absolute(), _OTHER[config.source]
    near_names = config.near_ood_sets or (other,)
    check_names("near_ood_sets", near_names, (other, "tin"))
    if "tin" in near_names and config.outliers == "source":
        raise ConfigError(
            "prepare.near_ood_sets",
            "without tin while prepare.outliers is source",
            near_names,
            "outlier exposure would train on what is tested",
        )
    class_names, train, whole_test = read_archive(root, config.source, download=config.download)
    val, test = _split(whole_test, config, config.source, class_names)
    near_val: dict[str, PictureSet] = {}
    near_test: dict[str, PictureSet] = {}
    for name in near_names:
        near_val[name], near_test[name] = _near_sets(name, root, config)
    far_val, far_test = load_far_ood(config.far_ood_sets or _FAR_OOD, root, _SIZE_PX, _CHANNELS, config)
    shape = (config.num_outliers, _SIZE_PX, _SIZE_PX, _CHANNELS, config.seed)
    return SourceCollection(
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        near_val=near_val,
        near_test=near_test,
        far_val=far_val,
        far_test=far_test,
        outliers=_tiny_imagenet("train", root, config) if config.outliers == "source" else draw_outliers(*shape),
        mixing=draw_mixing(*shape),
    )


def read_archive(root: Path, name: str, *, download: bool) -> tuple[tuple[str, ...], SourceSet, SourceSet]:
    """Read one archive without unpacking it.

    Args:
        root: its folder.
        name: key of `ARCHIVES`.
        download: fetch it if it is missing.

    Returns:
        Class names, training set and test set.

    Raises:
        ImageSetError: it is missing, or another than was published.
        ResourceError: it cannot be downloaded.
    """
    archive = ARCHIVES[name]
    path = find(archive.file, root, download=download)
    try:
        with tarfile.open(path) as tar:
            files = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
            data = {key: stream.read() for key, stream in files.items() if stream is not None}
        class_names = tuple(data[archive.class_names].decode().split())
        train = [_records(data[file], f"{name}/{Path(file).stem}", archive) for file in archive.train]
        test = _records(data[archive.test], f"{name}/{Path(archive.test).stem}", archive)
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError, ValueError) as error:
        raise ImageSetError(f"{path} is no binary version of {name} ({error}); fetch {archive.file.url}.") from error
    whole = SourceSet(
        np.concatenate([part.images for part in train]),
        np.concatenate([part.labels for part in train]),
        [file_path for part in train for file_path in part.paths],
    )
    return class_names, whole, test


def _records(data: bytes, where: str, archive: Archive) -> SourceSet:
    """The pictures of one file."""
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, archive.num_label_bytes + _PIXEL_BYTES)
    labels = rows[:, archive.num_label_bytes - 1].astype(np.int64)
    images = rows[:, archive.num_label_bytes :].reshape(-1, _CHANNELS, _SIZE_PX, _SIZE_PX)
    return SourceSet(images, labels, [f"{where}/{row:05d}" for row in range(len(rows))])


def _near_sets(name: str, root: Path, config: PrepareConfig) -> tuple[PictureSet, PictureSet]:
    """Validation and test part of one near-OOD set."""
    if name == "tin":
        whole = _tiny_imagenet("val", root, config)
        return _split(whole.with_labels(whole.labels + 1), config, name, ("Tiny ImageNet",), is_ood=True)
    class_names, _, test = read_archive(root, name, download=config.download)
    return _split(test, config, name, class_names, is_ood=True)


def _split(
    whole: PictureSet, config: PrepareConfig, name: str, class_names: tuple[str, ...], *, is_ood: bool = False
) -> tuple[PictureSet, PictureSet]:
    """Validation and test part of a test set, class by class."""
    shares = (config.val_fraction, 1 - config.val_fraction)
    rng = numpy_generator(config.seed, f"{name}/test")
    val, test = (whole.take(rows) for rows in split_by_class(whole.labels, shares, rng, class_names))
    if is_ood:
        val, test = (part.with_labels(ood_labels(len(part))) for part in (val, test))
    return val, test


def _tiny_imagenet(part: str, root: Path, config: PrepareConfig) -> PictureSet:
    return load_tiny_imagenet(root, part, _SIZE_PX, _CHANNELS, download=config.download)
