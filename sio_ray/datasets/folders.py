"""Finds pictures in folders of any size without opening them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sio_ray.config import PrepareConfig
from sio_ray.datasets.drawn import draw_far_ood, draw_mixing, draw_outliers
from sio_ray.datasets.source import FileSet, PictureSet, ood_labels
from sio_ray.datasets.split import split_by_class
from sio_ray.errors import ImageSetError
from sio_ray.seeding import numpy_generator

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; none where it is missing. Hidden ones are passed over."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures_in(folder: Path, *, below: bool = False) -> list[str]:
    """Paths, relative to a folder, of the pictures in it, sorted; other files and hidden ones are passed over.

    Args:
        folder: that is looked at; one that is missing holds none.
        below: look into its folders as well.
    """
    return sorted(_walk(folder, "", below)) if folder.is_dir() else []


def _walk(folder: Path, prefix: str, below: bool) -> Iterator[str]:
    with os.scandir(folder) as entries:  # tells files from folders without a call for each
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                yield prefix + entry.name
            elif below and entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", below)


def complete(root: Path, folder: Path, num_pictures: int) -> list[str]:
    """Paths, relative to `root`, of all pictures below a folder that was unpacked.

    Raises:
        ImageSetError: there are more or fewer than were published.
    """
    found = pictures_in(folder, below=True)
    if len(found) != num_pictures:
        raise ImageSetError(
            f"{folder} must hold {num_pictures:,} pictures, got {len(found):,}; delete it to unpack its archive anew."
        )
    prefix = folder.relative_to(root).as_posix()
    return [f"{prefix}/{path}" for path in found]


def ood_folder_sets(
    root: Path, kind: str, config: PrepareConfig
) -> tuple[dict[str, PictureSet], dict[str, PictureSet]]:
    """The sets `root/kind/<set>/**`, each split into validation and test.

    Args:
        root: of the source.
        kind: such as `near_ood`; a folder that is missing gives no set.
        config: `val_fraction`, `image_size_px`, `channels` and the seed are used.

    Returns:
        The validation sets and the test sets, by name.

    Raises:
        ImageSetError: a set without pictures, or with too few to split; pictures outside any set.
    """
    val: dict[str, PictureSet] = {}
    test: dict[str, PictureSet] = {}
    for folder in subfolders(root / kind):
        whole = ood_folder(root, f"{kind}/{folder.name}", config)
        shares = (config.val_fraction, 1 - config.val_fraction)
        rng = numpy_generator(config.seed, f"{config.source}/{kind}/{folder.name}")
        classes = ood_labels(len(whole)) + 1
        val_rows, test_rows = split_by_class(classes, shares, rng, [f"OOD set {kind}/{folder.name}"])
        val[folder.name], test[folder.name] = whole.take(val_rows), whole.take(test_rows)
    if not test and pictures_in(root / kind):
        raise ImageSetError(f"{root / kind} holds pictures but no set; move them to {root / kind}/<set>/.")
    return val, test


def ood_folder(root: Path, name: str, config: PrepareConfig) -> FileSet:
    """All pictures anywhere below `root/name`, labelled OOD.

    Raises:
        ImageSetError: there is none.
    """
    found = pictures_in(root / name, below=True)
    if not found:
        raise ImageSetError(
            f"OOD folder {root / name} holds no picture ({', '.join(SUFFIXES)}); add some, or delete it."
        )
    paths = [f"{name}/{path}" for path in found]
    return FileSet.of_ood(root, paths, config.image_size_px, config.channels)


def class_folders(root: Path, folders: list[str], config: PrepareConfig) -> FileSet:
    """The pictures of some folders, labelled by the folder's position.

    Args:
        root: that the folders' names start from.
        folders: one for each class.
        config: `image_size_px` and `channels` are used.

    Raises:
        ImageSetError: a folder is missing or holds no picture.
    """
    paths, labels = [], []
    for label, folder in enumerate(folders):
        found = pictures_in(root / folder)
        if not found:
            raise ImageSetError(
                f"class folder {root / folder} holds no picture ({', '.join(SUFFIXES)}); "
                "add some, or drop the class everywhere."
            )
        paths += [f"{folder}/{name}" for name in found]
        labels.append(np.full(len(found), label, dtype=np.int64))
    return FileSet(root, paths, np.concatenate(labels), config.image_size_px, config.channels)


def far_sets(root: Path, config: PrepareConfig) -> tuple[dict[str, PictureSet], dict[str, PictureSet]]:
    """Validation and test sets of `root/far_ood`, or drawn ones where it has none."""
    val, test = ood_folder_sets(root, "far_ood", config)
    if not test:
        size_px = config.image_size_px
        return draw_far_ood(config.images_per_ood_set, size_px, size_px, config.channels, config.seed)
    return val, test


def further_sets(root: Path, config: PrepareConfig) -> tuple[PictureSet, PictureSet]:
    """The outliers, drawn or of `root/outliers`, and the mixing set."""
    shape = (config.num_outliers, config.image_size_px, config.image_size_px, config.channels, config.seed)
    if config.outliers == "source":
        return ood_folder(root, "outliers", config), draw_mixing(*shape)
    return draw_outliers(*shape), draw_mixing(*shape)
