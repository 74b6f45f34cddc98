"""Your own pictures, in folders: `train/<class>/`, `near_ood/<set>/` and, where given, `val`, `test`, `far_ood`."""

from __future__ import annotations

from pathlib import Path

from sio_ray.config import PrepareConfig
from sio_ray.datasets.folders import class_folders, far_sets, further_sets, ood_folder_sets, subfolders
from sio_ray.datasets.source import FileSet, SourceCollection
from sio_ray.datasets.split import split_by_class
from sio_ray.errors import ImageSetError
from sio_ray.seeding import numpy_generator


def load_image_folder(config: PrepareConfig) -> SourceCollection:
    """Find the pictures of a folder; none is opened yet.

    `root/train/<class>/*` gives the classes, in the order of their names. `root/val/<class>/*` and
    `root/test/<class>/*` are split off train by `val_fraction` and `test_fraction` where missing.
    `root/near_ood/<set>/**` and `root/far_ood/<set>/**` are each split into validation (`val_fraction`) and test;
    without `far_ood`, letters, photo patches and noise are drawn. Other files are passed over, as are names that begin
    with a dot.

    Args:
        config: `root`, `image_size_px`, `channels`, `outliers`, the fractions, the counts and the seed are used.

    Raises:
        ImageSetError: a folder is missing, empty or names a class that train has not; too few pictures to split.
    """
    assert config.root is not None, "checked by the config"
    root = config.root.absolute()
    if not root.is_dir():
        raise ImageSetError(f"prepare.root {config.root} is no folder; give the one that holds train/<class>/.")
    class_names = _class_names(root)
    parts = {
        part: _labelled(root, part, class_names, config)
        for part in ("train", "val", "test")
        if part == "train" or (root / part).is_dir()
    }
    near_val, near_test = ood_folder_sets(root, "near_ood", config)
    if not near_test:
        raise ImageSetError(
            f"{root} has no near_ood/<set> folder; near-OOD is what SIO is measured on, so add pictures of classes "
            "that are close to yours but none of them."
        )
    far_val, far_test = far_sets(root, config)
    parts = _split_off(parts, class_names, config)
    outliers, mixing = further_sets(root, config)
    return SourceCollection(
        class_names=class_names,
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        near_val=near_val,
        near_test=near_test,
        far_val=far_val,
        far_test=far_test,
        outliers=outliers,
        mixing=mixing,
    )


def _class_names(root: Path) -> tuple[str, ...]:
    train = root / "train"
    if not train.is_dir():
        raise ImageSetError(f"{root} has no train folder; put pictures in {train}/<class>/.")
    names = tuple(folder.name for folder in subfolders(train))
    if len(names) < 2:
        raise ImageSetError(f"{train} must hold at least 2 class folders, got {len(names)}; add one folder per class.")
    return names


def _labelled(root: Path, part: str, class_names: tuple[str, ...], config: PrepareConfig) -> FileSet:
    """The pictures of `root/part/<class>/`, class by class."""
    unknown = sorted({folder.name for folder in subfolders(root / part)} - set(class_names))
    if unknown:
        raise ImageSetError(
            f"{root / part} has class {', '.join(unknown)}, which {root / 'train'} has not; "
            "rename it, or move it to near_ood if it is no ID class."
        )
    return class_folders(root, [f"{part}/{name}" for name in class_names], config)


def _split_off(parts: dict[str, FileSet], class_names: tuple[str, ...], config: PrepareConfig) -> dict[str, FileSet]:
    """Split val and test off train where they are missing."""
    shares = {"val": config.val_fraction, "test": config.test_fraction}
    missing = {part: share for part, share in shares.items() if part not in parts}
    if not missing:
        return parts
    train = parts["train"]
    names = [f"class {name}" for name in class_names]
    rng = numpy_generator(config.seed, "image_folder/id")
    rows = split_by_class(train.labels, [1 - sum(missing.values()), *missing.values()], rng, names)
    return parts | {part: train.take(chosen) for part, chosen in zip(("train", *missing), rows, strict=True)}
