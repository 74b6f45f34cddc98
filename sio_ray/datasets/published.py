"""Published files: found on disk, or downloaded with a resume, and always compared with their checksum."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.progress import count_progress

_PARTIAL_SUFFIX = ".partial"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60

#: A connection that breaks is taken up again so often, if each try brought something.
_MAX_TRIES = 20


@dataclass(frozen=True)
class PublishedFile:
    """A file that somebody publishes.

    Attributes:
        url: where.
        md5: of its bytes, in hex.
        other_md5s: of the same content as others pack it.
    """

    url: str
    md5: str
    other_md5s: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]


def find(file: PublishedFile, folder: Path, *, download: bool) -> Path:
    """The file on disk, seen to be what was published.

    torchvision's own download begins anew after each interruption, and leaves what it has under the file's final name;
    this one goes on where it stopped.

    Args:
        file: to find.
        folder: where it is, or where it goes.
        download: fetch it if it is missing.

    Raises:
        ImageSetError: it is missing, or has other bytes.
        ResourceError: it cannot be downloaded.
    """
    path = folder / file.name
    if not path.is_file():
        if not download:
            raise ImageSetError(
                f"{path} is missing; set prepare.download=true, or fetch {file.url} yourself and put it there."
            )
        _download(file, path)
    found = _md5(path)
    if found not in (file.md5, *file.other_md5s):
        raise ImageSetError(
            f"{path} is not the file that was published (its MD5 is {found}, not {file.md5}); delete it, then set "
            f"prepare.download=true, or fetch {file.url} yourself and put it there."
        )
    return path


def extracted(file: PublishedFile, folder: Path, name: str, *, download: bool) -> Path:
    """The folder that an archive holds, unpacked beside it if it is not there yet; it appears whole.

    Args:
        file: a tar or zip archive.
        folder: where it is.
        name: of the folder in it.
        download: fetch it if it is missing.

    Raises:
        ImageSetError: the archive is missing, is another file, or holds no such folder.
        ResourceError: it cannot be downloaded, or there is no space for what it holds.
    """
    target = folder / name
    if target.is_dir():
        return target
    archive = find(file, folder, download=download)
    partial = folder / f"{name}.{uuid.uuid4().hex[:8]}{_PARTIAL_SUFFIX}"
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(partial)
        else:
            with tarfile.open(archive) as opened_tar:
                _unpack(opened_tar, partial)
        (partial / name).rename(target)
    except (tarfile.TarError, zipfile.BadZipFile, FileNotFoundError) as error:
        raise ImageSetError(f"{archive} cannot be unpacked ({error}); delete it and fetch it again.") from error
    except OSError as error:
        raise ResourceError(f"cannot unpack {archive} ({error}); give a prepare.root with space left.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack files and folders, and refuse all else; what `filter="data"` is for, which Python 3.11.2 has not."""
    for member in archive:
        path = (folder / member.name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise tarfile.TarError(f"{member.name} lies outside of it")
        if member.isdir():
            continue
        content = archive.extractfile(member) if member.isfile() else None
        if content is None:
            raise tarfile.TarError(f"{member.name} is neither a file nor a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, path.open("wb") as stream:
            shutil.copyfileobj(content, stream)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(file: PublishedFile, path: Path) -> None:
    """Fetch a file; what an interrupted download left is continued."""
    partial = path.with_name(path.name + _PARTIAL_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_MAX_TRIES):
            before = partial.stat().st_size if partial.exists() else 0
            if _fetch_rest(file, partial, before):
                break
            if partial.stat().st_size <= before:
                raise OSError("the server sends nothing more")
        else:
            raise OSError(f"the connection broke {_MAX_TRIES} times")
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ResourceError(
            f"{file.url} cannot be downloaded ({reason}); run again to continue, or fetch it where there is a network "
            f"and put it at {path}."
        ) from error
    if _md5(partial) != file.md5:
        partial.unlink()
        raise ResourceError(
            f"{file.url} gave other bytes than were published (MD5); run again, or fetch it elsewhere and put it at "
            f"{path}."
        )
    partial.rename(path)


def _fetch_rest(file: PublishedFile, partial: Path, start: int) -> bool:
    """Append what is missing from byte `start` on; false if the connection broke before the end."""
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # all of it is there
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        start = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        done = start
        with (
            partial.open("ab" if resumed else "wb") as stream,
            count_progress(f"fetching {file.name}", (total or 0) >> 20, "MB") as progress,
        ):
            progress.advance(start >> 20, is_new=False)
            while chunk := response.read(_CHUNK_BYTES):
                stream.write(chunk)
                progress.advance(((done + len(chunk)) >> 20) - (done >> 20))
                done += len(chunk)
    return total is None or done >= total
