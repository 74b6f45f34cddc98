"""OpenOOD's image lists: a text file with `relative/path.png label` on each line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sio_ray.errors import ImageSetError
from sio_ray.imageset.exchange.place import stays_inside
from sio_ray.imageset.exchange.source import Source, name_classes, picture_files_source


def open_source(
    source: str,
    root: str | None = None,
    class_names: tuple[str, ...] | None = None,
    size_px: int | None = None,
    channels: int | None = None,
) -> Source:
    """Read a list and see that its pictures are there.

    Args:
        source: the list.
        root: folder that its paths start from; the list's own if not given.
        class_names: name of class c at position c; "0", "1", ... if not given.
        size_px: side of the square that all pictures are brought to; the first picture's size if not given.
        channels: 1 or 3; the first picture's if not given.

    Raises:
        ImageSetError: the list cannot be read, a line is none of a list, or pictures are missing.
    """
    path = Path(source)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageSetError(f"image list {source} cannot be read ({error}); give a text file.") from error
    names, numbers = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        try:
            numbers.append(int(label))
        except ValueError:
            name = ""
        if not name:
            raise ImageSetError(
                f"line {number} of image list {source} must be a path and a label, got {line[:80]!r}; mend the line."
            )
        if not stays_inside(name):
            raise ImageSetError(
                f"line {number} of image list {source} must be a path below its root, got {name[:80]!r}; give the "
                "folder that holds all pictures by --root, and paths from there."
            )
        names.append(name)
    try:
        labels = np.array(numbers, dtype=np.int64)
    except OverflowError:
        raise ImageSetError(f"image list {source} must have labels of 64 bits, got larger ones; mend it.") from None
    classes = name_classes(source, labels, class_names)
    base = path.parent if root is None else Path(root)
    paths = [base / name for name in names]
    missing = [name for name, picture in zip(names, paths, strict=True) if not _is_file(picture)]
    if missing:
        raise ImageSetError(
            f"{len(missing):,} of {len(paths):,} pictures of image list {source} are not in {base} "
            f"({', '.join(missing[:3])}{', ...' * (len(missing) > 3)}); give the folder that they are in by --root."
        )
    provenance = {"source": "openood", "path": source}
    return picture_files_source(paths, names, labels, classes, provenance, size_px, channels)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return False
