"""Files that appear whole or not at all, on a local disk or in an object store, by path or URI."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from sio_ray.errors import ImageSetError, ResourceError

#: A local file that is being written ends so; readers never look at it.
PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class Folder:
    """One folder of a file system that pyarrow knows (local, S3, GCS, HDFS).

    Attributes:
        uri: the path or URI as the user gave it; what messages name.
    """

    uri: str

    def _resolve(self, name: str = "") -> tuple[fs.FileSystem, str]:
        try:
            filesystem, root = fs.FileSystem.from_uri(self.uri if "://" in self.uri else str(Path(self.uri).absolute()))
        except (ValueError, OSError) as error:
            raise ImageSetError(
                f"{self.uri} is no path or URI that pyarrow can open ({error}); check its scheme."
            ) from error
        return filesystem, f"{root}/{name}" if name else root

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    def join(self, name: str) -> str:
        """The path or URI of one file in this folder."""
        return f"{self.uri.rstrip('/')}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether a file of this name (or, without a name, the folder itself) is there."""
        filesystem, path = self._resolve(name)
        return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)

    def list(self) -> dict[str, int]:
        """Name to size in bytes of every whole file directly in this folder; empty where the folder is missing."""
        filesystem, root = self._resolve()
        infos = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
        return {
            info.base_name: info.size
            for info in infos
            if info.type == fs.FileType.File and not info.base_name.endswith(PARTIAL_SUFFIX)
        }

    def read_bytes(self, name: str) -> bytes:
        """Read one whole file.

        Raises:
            FileNotFoundError: no such file.
        """
        filesystem, path = self._resolve(name)
        with filesystem.open_input_file(path) as stream:
            return bytes(stream.read())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file so that no reader ever sees part of it.

        A local file is written beside its place and renamed. An object store shows an object only once its upload is
        complete, and has no rename, so there the object is written in one go.

        Raises:
            ResourceError: the folder cannot be written, or the disk is full.
        """
        filesystem, path = self._resolve(name)
        try:
            if isinstance(filesystem, fs.LocalFileSystem):
                _replace_local(Path(path), data)
            else:
                with filesystem.open_output_stream(path) as stream:
                    stream.write(data)
        except OSError as error:
            raise ResourceError(
                f"cannot write {self.join(name)} ({error}); give a folder that you may write to, with space left."
            ) from error


def _replace_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own per writer: two actors may draw the same shard, and the first whole one wins.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
