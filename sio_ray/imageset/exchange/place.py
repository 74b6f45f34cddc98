"""The folder of an export, which appears whole or not at all, and paths that must stay in a folder."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from sio_ray.errors import ConfigError, ImageSetError, ResourceError
from sio_ray.imageset.storage import PARTIAL_SUFFIX


def stays_inside(name: str) -> bool:
    """Whether a relative path, on any system, leads to nothing outside of the folder that it starts from."""
    return not any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))


@contextmanager
def new_folder(dest: Path) -> Iterator[Path]:
    """Give a sibling to write to, and rename it when the block ends well; else delete it.

    Raises:
        ConfigError: `dest` is no local path.
        ImageSetError: `dest` exists.
        ResourceError: the disk is full, or the place cannot be written.
    """
    if ":/" in str(dest):
        raise ConfigError("DEST", "a local folder", str(dest), "export to a disk, then copy it")
    if dest.exists():
        raise ImageSetError(f"{dest} exists already; give another folder, or delete it first.")
    partial = dest.with_name(f"{dest.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(dest)
    except OSError as error:
        raise ResourceError(
            f"cannot write {dest} ({error}); give a folder that you may write to, with space left."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
