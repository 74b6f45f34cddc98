"""Folders of pictures, one per class: `<class>/<file>`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sio_ray.errors import ImageSetError
from sio_ray.imageset.exchange.rows import stored_shards
from sio_ray.imageset.exchange.source import Source, picture_files_source
from sio_ray.imageset.reader import ImageSet

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

#: The one folder of an OOD set, on the way out and in.
OOD_FOLDER = "ood"

#: Names that Windows keeps for devices.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def open_source(source: str, size_px: int | None = None, channels: int | None = None) -> Source:
    """Find the pictures of a folder without reading them.

    Classes are the folders in the order of their names; names that begin with a dot and other files are passed over.
    A folder `ood` that is alone makes an OOD set. Pictures of a class come in the order of their names and spread over
    the whole set, so that its first n, which a ratio trains on, have the classes in its proportions.

    Args:
        source: the folder that holds the class folders.
        size_px: side of the square that all pictures are brought to; the first picture's size if not given.
        channels: 1 or 3; the first picture's if not given.

    Raises:
        ImageSetError: no folder, no class, or a class without pictures.
    """
    root = Path(source)
    if not root.is_dir():
        raise ImageSetError(f"{source} is no folder; give the one that holds <class>/<picture>.")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ImageSetError(f"{source} has no class folder; put the pictures in {source}/<class>/.")
    files = [sorted(filter(_is_picture, folder.iterdir())) for folder in folders]
    empty = [folder.name for folder, found in zip(folders, files, strict=True) if not found]
    if empty:
        raise ImageSetError(
            f"{source} has no picture ({', '.join(SUFFIXES)}) in {', '.join(empty[:5])}{', ...' * (len(empty) > 5)}; "
            "add some, or delete the folder."
        )
    class_names = tuple(folder.name for folder in folders)
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in files])
    if class_names == (OOD_FOLDER,):
        class_names, labels = (), np.full(len(labels), -1)
    spread = np.argsort(np.concatenate([(np.arange(len(found)) + 0.5) / len(found) for found in files]), kind="stable")
    every_path = [path for found in files for path in found]
    paths, labels = [every_path[place] for place in spread], labels[spread]
    names = [path.relative_to(root).as_posix() for path in paths]
    provenance = {"source": "image-folder", "path": source}
    return picture_files_source(paths, names, labels, class_names, provenance, size_px, channels)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def write_files(image_set: ImageSet, folder: Path, on_images: Callable[[int], None]) -> None:
    """Write `<class>/<image_id>.png` with the stored bytes; the pictures of an OOD set go to `ood`."""
    folders = [folder / name for name in _folder_names(image_set.info.class_names)] or [folder / OOD_FOLDER]
    for path in folders:
        path.mkdir()
    for rows in stored_shards(image_set):
        for row in rows:
            (folders[max(row.label, 0)] / f"{row.image_id:09d}.png").write_bytes(row.png)
        on_images(len(rows))


def _folder_names(class_names: tuple[str, ...]) -> list[str]:
    """A folder for each class, told apart even where upper and lower case are the same."""
    taken = {OOD_FOLDER} if len(class_names) == 1 else set()  # alone, `ood` would be read back as an OOD set
    names: list[str] = []
    for label, class_name in enumerate(class_names):
        name = safe_name(class_name)
        while name.casefold() in taken:
            name = f"{name}_{label}"
        taken.add(name.casefold())
        names.append(name)
    return names


def safe_name(name: str) -> str:
    """A file name that every file system takes, as like the given one as can be."""
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", name).encode()[:200].decode(errors="ignore").rstrip(". ")
    return f"_{name}" if not name or name.startswith(".") or _RESERVED.fullmatch(name) else name
