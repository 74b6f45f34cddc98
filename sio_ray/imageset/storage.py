"""Files that appear whole or not at all, on a local disk or in an object store, by path or URI."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from sio_ray.errors import ResourceError
from sio_ray.imageset.clients import ARROW_SCHEMES, open_uri, persist, scheme_of
from sio_ray.redaction import redact

#: A local file that is being written ends so; readers never look at it.
PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True, repr=False)
class Folder:
    """One folder on a local disk, in an object store, or in any other file system that pyarrow or fsspec knows.

    Calls to anything but a local disk are made again while a failure may pass. A folder is a URI and no more, so it
    travels to Ray's workers, which need the credentials in their own environment.

    Attributes:
        uri: the path or URI as the user gave it, which may hold a secret; for messages there is `safe_uri`. An S3 URI
            may end with `?endpoint_override=HOST:PORT&scheme=http`; without, pyarrow takes the server from
            AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (`http://HOST:PORT`), and else goes to Amazon.
    """

    uri: str

    def __repr__(self) -> str:
        return f"Folder({self.safe_uri!r})"

    @property
    def safe_uri(self) -> str:
        """The path or URI with any password replaced by ***; what messages name."""
        return redact(self.uri)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return _split_query(self.safe_uri)[0].rstrip("/").rsplit("/", 1)[-1]

    def join(self, name: str) -> str:
        """The path or URI of one file in this folder, without secrets: for messages."""
        return _append(self.safe_uri, name)

    def subfolder(self, name: str) -> Folder:
        """The folder of this name, or path, in this folder."""
        return Folder(_append(self.uri, quote(name) if scheme_of(self.uri) in ARROW_SCHEMES else name))

    def exists(self, name: str = "") -> bool:
        """Whether a file of this name (or, without a name, the folder itself) is there.

        Raises:
            ResourceError: it cannot be found out.
        """
        filesystem, path = self._resolve(name)
        try:
            info = persist(lambda: filesystem.get_file_info(path), filesystem)
        except OSError as error:
            remedy = _remedy(filesystem, "give a folder that you may read")
            raise ResourceError(f"cannot look for {self.join(name)} ({error}); {remedy}.") from error
        return bool(info.type != fs.FileType.NotFound)

    def files(self, *, below: bool = False) -> dict[str, int]:
        """Path inside this folder to size in bytes of every file, half-written ones too; empty for a missing folder.

        Args:
            below: look into its folders as well.

        Raises:
            ResourceError: the folder cannot be listed.
        """
        filesystem, root = self._resolve()
        selector = fs.FileSelector(root, recursive=below, allow_not_found=True)
        try:
            infos = persist(lambda: filesystem.get_file_info(selector), filesystem)
        except NotADirectoryError:
            return {}  # an object store, where a name can be both, sees it so too
        except OSError as error:
            remedy = _remedy(filesystem, "give a folder that you may read")
            raise ResourceError(f"cannot list {self.safe_uri} ({error}); {remedy}.") from error
        # A file system may give its paths with or without the first slash, whatever it was asked with.
        start = len(root.strip("/")) + 1 if root.strip("/") else 0
        return {info.path.lstrip("/")[start:]: info.size for info in infos if info.type == fs.FileType.File}

    def list(self) -> dict[str, int]:
        """Name to size in bytes of every whole file directly in this folder; empty where the folder is missing.

        Raises:
            ResourceError: the folder cannot be listed.
        """
        return {name: size for name, size in self.files().items() if not name.endswith(PARTIAL_SUFFIX)}

    @contextmanager
    def open(self, name: str) -> Iterator[pa.NativeFile]:
        """Open one file to read parts of it.

        Raises:
            FileNotFoundError: no such file.
            OSError: it cannot be opened.
        """
        filesystem, path = self._resolve(name)
        with persist(lambda: filesystem.open_input_file(path), filesystem) as stream:
            yield stream

    def read_bytes(self, name: str) -> bytes:
        """Read one whole file.

        Raises:
            FileNotFoundError: no such file.
            OSError: it cannot be read.
        """
        filesystem, path = self._resolve(name)

        def read() -> bytes:
            with filesystem.open_input_file(path) as stream:
                return bytes(stream.read())

        return persist(read, filesystem)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file so that no reader ever sees part of it.

        A local file is written beside its place and renamed. An object store shows an object only once its upload is
        complete, and has no rename, so there the object is written in one go, and again if that fails. HDFS and file
        servers such as SFTP show a file in the making; there only the manifest tells what is whole.

        Raises:
            ResourceError: the folder cannot be written, or the disk is full.
        """
        filesystem, path = self._resolve(name)
        try:
            if isinstance(filesystem, fs.LocalFileSystem):
                _replace_local(Path(path), data)
            else:
                persist(lambda: _put(filesystem, path, data), filesystem)
        except OSError as error:
            remedy = _remedy(filesystem, "give a folder that you may write to, with space left")
            raise ResourceError(f"cannot write {self.join(name)} ({error}); {remedy}.") from error

    def delete(self, name: str) -> None:
        """Delete one file; one that is missing is fine.

        Raises:
            ResourceError: it is there and cannot be deleted.
        """
        filesystem, path = self._resolve(name)
        _delete(filesystem, filesystem.delete_file, path, self.join(name))

    def delete_folder(self) -> None:
        """Delete the folder itself, with all that is in it; one that is missing is fine.

        Raises:
            ResourceError: it is there and cannot be deleted.
        """
        filesystem, root = self._resolve()
        _delete(filesystem, filesystem.delete_dir, root, self.safe_uri)

    def sweep(self) -> None:
        """Delete what writers that were killed left behind; one that is writing now will write anew."""
        filesystem, root = self._resolve()
        if isinstance(filesystem, fs.LocalFileSystem):
            for path in Path(root).glob(f"*{PARTIAL_SUFFIX}"):
                path.unlink(missing_ok=True)

    def _resolve(self, name: str = "") -> tuple[fs.FileSystem, str]:
        if scheme_of(self.uri):
            filesystem, root = open_uri(self.uri)
        else:
            filesystem, root = fs.LocalFileSystem(), Path(self.uri).absolute().as_posix()
        return filesystem, f"{root.rstrip('/')}/{name}" if name else root.rstrip("/") or "/"


def _split_query(uri: str) -> tuple[str, str]:
    """Path and query; only pyarrow's URIs have one, elsewhere a question mark is part of a name."""
    path, mark, query = uri.partition("?") if scheme_of(uri) in ARROW_SCHEMES else (uri, "", "")
    return path, mark + query


def _append(uri: str, name: str) -> str:
    path, query = _split_query(uri)
    return f"{path.rstrip('/')}/{name}{query}"


def _remedy(filesystem: fs.FileSystem, local: str) -> str:
    if isinstance(filesystem, fs.LocalFileSystem):
        return local
    return "check its address, the network and your access to it, then run the same command again"


def _delete(filesystem: fs.FileSystem, delete: Callable[[str], None], path: str, where: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            persist(lambda: delete(path), filesystem)
    except OSError as error:
        remedy = _remedy(filesystem, "check who may write there")
        raise ResourceError(f"cannot delete {where} ({error}); {remedy}.") from error


def _put(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Write one object that is not visible before it is whole.

    A pyarrow stream that is left by an exception is closed, and closing completes the upload with what is there.
    Measured with pyarrow 26 on S3, with one request refused: where `write` itself may fail, a part of the object comes
    to light (the first 10 of 32 MB without background writes, an empty object with delayed opening). With the limits
    of `clients` it cannot fail: the upload begins in `open`, and what goes wrong with a part is kept until `close`,
    which then completes nothing. fsspec's streams are committed by `close` too; its `pipe_file` is one call.
    """
    if isinstance(filesystem, fs.PyFileSystem):
        client = filesystem.handler.fs
        try:
            client.pipe_file(path, data)
        except FileNotFoundError:
            if not path.startswith("/"):  # it begins with a bucket, which is not ours to make
                raise
            # Folders are real on a file server such as SFTP, and this one is not there.
            client.makedirs(path.rpartition("/")[0], exist_ok=True)
            client.pipe_file(path, data)
    else:
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)


def _replace_local(path: Path, data: bytes) -> None:
    try:
        _write_and_rename(path, data)
    except FileNotFoundError:
        _write_and_rename(path, data)  # somebody who had finished the same folder swept this file before it was whole


def _write_and_rename(path: Path, data: bytes) -> None:
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
