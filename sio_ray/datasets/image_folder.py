"""Your own pictures, in folders: `train/<class>/`, `near_ood/<set>/` and, where given, `val`, `test`, `far_ood`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sio_ray.config import PrepareConfig
from sio_ray.datasets.drawn import draw_far_ood, draw_mixing, draw_outliers
from sio_ray.datasets.source import SourceCollection, SourceSet
from sio_ray.datasets.split import split_by_class
from sio_ray.errors import ConfigError, ImageSetError
from sio_ray.imageset.foreign_pictures import bombs_are_errors, decoding, in_colours
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.progress import progress_bars
from sio_ray.seeding import numpy_generator

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def load_image_folder(config: PrepareConfig) -> SourceCollection:
    """Read a folder of pictures.

    `root/train/<class>/*` gives the classes, in the order of their names. `root/val/<class>/*` and
    `root/test/<class>/*` are split off train by `val_fraction` and `test_fraction` where missing.
    `root/near_ood/<set>/**` and `root/far_ood/<set>/**` are each split into validation (`val_fraction`) and test;
    without `far_ood`, letters, photo patches and noise are drawn. Other files are passed over, as are names that begin
    with a dot.

    Args:
        config: `root`, `image_size_px`, `channels`, the fractions, the counts and the seed are used.

    Raises:
        ConfigError: no root given.
        ImageSetError: a folder is missing, empty or names a class that train has not; a picture does not decode;
            too few pictures to split.
    """
    if config.root is None:
        raise ConfigError("prepare.root", "a folder for source image_folder", None, "set prepare.root=/your/pictures")
    root, size_px = config.root, config.image_size_px
    if not root.is_dir():
        raise ImageSetError(f"prepare.root {root} is no folder; give the one that holds train/<class>/.")
    class_names = _class_names(root)
    # Every folder is looked at before any picture is read, so that a mistake shows in the first second.
    files = {
        part: _class_files(root, part, class_names)
        for part in ("train", "val", "test")
        if part == "train" or (root / part).is_dir()
    }
    near_files = _ood_files(root, "near_ood")
    if not near_files:
        raise ImageSetError(
            f"{root} has no near_ood/<set> folder; near-OOD is what SIO is measured on, so add pictures of classes "
            "that are close to yours but none of them."
        )
    far_files = _ood_files(root, "far_ood")

    parts = _split_id(files, class_names, config)
    near_val, near_test = _split_ood(near_files, "near_ood", config)
    if far_files:
        far_val, far_test = _split_ood(far_files, "far_ood", config)
    else:
        far_val, far_test = draw_far_ood(config.images_per_ood_set, size_px, size_px, config.channels, config.seed)
    return SourceCollection(
        class_names=class_names,
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        near_val=near_val,
        near_test=near_test,
        far_val=far_val,
        far_test=far_test,
        outliers=draw_outliers(config.num_outliers, size_px, size_px, config.channels, config.seed),
        mixing=draw_mixing(config.num_outliers, size_px, size_px, config.channels, config.seed),
    )


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(candidates: Iterable[Path], base: Path) -> list[Path]:
    """The pictures among some paths below `base`, sorted; hidden ones (thumbnails, checkpoints) are none."""
    return sorted(
        path
        for path in candidates
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(base).parts)
        and path.is_file()
    )


def _class_names(root: Path) -> tuple[str, ...]:
    train = root / "train"
    if not train.is_dir():
        raise ImageSetError(f"{root} has no train folder; put pictures in {train}/<class>/.")
    names = tuple(folder.name for folder in _subfolders(train))
    if len(names) < 2:
        raise ImageSetError(f"{train} must hold at least 2 class folders, got {len(names)}; add one folder per class.")
    return names


def _class_files(root: Path, part: str, class_names: tuple[str, ...]) -> list[list[Path]]:
    """For each class the pictures in `root/part/<class>/`."""
    unknown = sorted({folder.name for folder in _subfolders(root / part)} - set(class_names))
    if unknown:
        raise ImageSetError(
            f"{root / part} has class {', '.join(unknown)}, which {root / 'train'} has not; "
            "rename it, or move it to near_ood if it is no ID class."
        )
    files = []
    for name in class_names:
        folder = root / part / name
        found = _pictures(folder.iterdir(), folder) if folder.is_dir() else []
        if not found:
            raise ImageSetError(
                f"class folder {folder} holds no picture ({', '.join(SUFFIXES)}); "
                "add some, or drop the class everywhere."
            )
        files.append(found)
    return files


def _ood_files(root: Path, kind: str) -> dict[str, list[Path]]:
    """For each set the pictures anywhere below `root/kind/<set>/`."""
    files = {}
    for folder in _subfolders(root / kind):
        files[folder.name] = _pictures(folder.rglob("*"), folder)
        if not files[folder.name]:
            raise ImageSetError(
                f"OOD folder {folder} holds no picture ({', '.join(SUFFIXES)}); add some, or delete it."
            )
    if not files and _pictures((root / kind).glob("*"), root / kind):
        raise ImageSetError(f"{root / kind} holds pictures but no set; move them to {root / kind}/<set>/.")
    return files


def _split_id(
    files: dict[str, list[list[Path]]], class_names: tuple[str, ...], config: PrepareConfig
) -> dict[str, SourceSet]:
    """Read train, val and test, and split off train what is missing."""
    read = {part: _read(per_class, config) for part, per_class in files.items()}
    shares = {"val": config.val_fraction, "test": config.test_fraction}
    missing = {part: share for part, share in shares.items() if part not in files}
    if missing:
        train = read["train"]
        names = [f"class {name}" for name in class_names]
        rng = numpy_generator(config.seed, "image_folder/id")
        rows = split_by_class(train.labels, [1 - sum(missing.values()), *missing.values()], rng, names)
        read |= {part: train.take(chosen) for part, chosen in zip(("train", *missing), rows, strict=True)}
    return read


def _split_ood(
    files: dict[str, list[Path]], kind: str, config: PrepareConfig
) -> tuple[dict[str, SourceSet], dict[str, SourceSet]]:
    """Read each set and split it into validation and test."""
    val, test = {}, {}
    for name, paths in files.items():
        whole = _read([paths], config)
        rng = numpy_generator(config.seed, f"image_folder/{kind}/{name}")
        shares = (config.val_fraction, 1 - config.val_fraction)
        val_rows, test_rows = split_by_class(whole.labels, shares, rng, [f"OOD set {kind}/{name}"])
        whole = SourceSet.of_ood(whole.images, whole.paths)
        val[name], test[name] = whole.take(val_rows), whole.take(test_rows)
    return val, test


def _read(per_class: list[list[Path]], config: PrepareConfig) -> SourceSet:
    """Read pictures, labelled by the list they are in."""
    assert config.root is not None, "checked by the caller"
    paths = [path for paths in per_class for path in paths]
    labels = np.repeat(np.arange(len(per_class)), [len(paths) for paths in per_class]).astype(np.int64)
    images: npt.NDArray[np.uint8] = np.empty(
        (len(paths), config.channels, config.image_size_px, config.image_size_px), dtype=np.uint8
    )
    with progress_bars() as bars:
        bar = bars.add_task("reading", total=len(paths), unit="pictures", note="")
        for row, path in enumerate(paths):
            images[row] = _read_picture(path, config.image_size_px, config.channels)
            bars.advance(bar)
    return SourceSet(images, labels, [path.relative_to(config.root).as_posix() for path in paths])


def _read_picture(path: Path, size_px: int, channels: int) -> UInt8Array:
    """Decode, turn upright, bring to grey or RGB, scale the shorter side and cut the middle; (C, H, W) uint8."""
    with bombs_are_errors(), decoding(str(path)), Image.open(path) as picture:
        upright = in_colours(ImageOps.exif_transpose(picture), "L" if channels == 1 else "RGB")
    side = min(upright.size)
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    # Cutting within the resize is exact to a fraction of a pixel, and skips what would be cut away.
    square = upright.resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=4.0
    )
    pixels = np.asarray(square, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
