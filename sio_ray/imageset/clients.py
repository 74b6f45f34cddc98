"""Clients of file systems, by URI: opened once, bounded in time, and asked again while a failure may pass."""

from __future__ import annotations

import functools
import random
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from fsspec.core import url_to_fs
from pyarrow import fs

from sio_ray.errors import ImageSetError
from sio_ray.reading import reason_of
from sio_ray.redaction import is_redacted, redact

#: How often a call to an object store is made before it counts as failed; in between 0.2, 0.6, 1.8 and 5 s go by.
NUM_ATTEMPTS = 5
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
_WAIT_GROWTH = 3

#: Within one of these calls, how often the S3 client makes each request, and how long a server may keep silent. What
#: pyarrow 26 opens by URI makes 31 requests and gives each 3 s, too short for a busy store (measured: 99 s a call).
S3_REQUEST_ATTEMPTS = 3
S3_SILENCE_S = 10.0
S3_CONNECT_S = 5.0
#: The same for one call to Google's store, whose client else tries for minutes (measured: more than 6). One request
#: that is never answered takes it 120 s all the same.
GCS_CALL_S = 30.0

#: What pyarrow opens by itself; for all others there is fsspec.
ARROW_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")

#: Errors that come again; S3 and Google tell most of them in words alone.
_LASTING_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_LASTING_WORDS = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_|SIGNATURE_|UNRECOGNIZED_CLIENT|MISSING_AUTH|REQUEST_EXPIRED)"
    r"|AWS Error UNKNOWN \(HTTP status 4(?!08|29)"
    r"|Status\((PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND|INVALID_ARGUMENT)"
)

#: Not the global generator: actors that were seeded alike would all come back at the same moment.
_jitter = random.SystemRandom()

T = TypeVar("T")


def scheme_of(uri: str) -> str:
    """What stands before `://`; empty for a local path."""
    return uri.partition("://")[0] if "://" in uri else ""


@functools.lru_cache(maxsize=256)
def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The client of a URI, one per process, and the path in it.

    Raises:
        ImageSetError: nobody knows the scheme, its package is missing, or the URI is misspelled.
    """
    if is_redacted(uri):
        raise ImageSetError(
            f"{uri} has *** where a secret was, as none is ever saved; give the credentials in the environment of "
            "every machine, or the URI with its secret."
        )
    known = scheme_of(uri) in ARROW_SCHEMES
    try:
        if known:
            filesystem, root = fs.FileSystem.from_uri(uri)
            filesystem = _with_limits(filesystem)
        else:
            client, root = url_to_fs(uri)
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(client))
        if not root:
            raise ValueError("it names no folder")
    # Without the cause, which may quote a secret.
    except ImportError as error:
        raise ImageSetError(
            f"{redact(uri)} needs a package that is missing ({redact(str(error))}); install it on every machine."
        ) from None
    except (ValueError, OSError) as error:
        reason = redact(reason_of(error))
        remedy = "check how it is spelled, and that what it needs is installed" if known else "check its scheme"
        raise ImageSetError(
            f"{redact(uri)} is no path or URI that pyarrow or fsspec can open ({reason}); {remedy}."
        ) from None
    return filesystem, root


def _with_limits(filesystem: fs.FileSystem) -> fs.FileSystem:
    """Give a store's client our limits; `from_uri` takes none, but a client's pickle holds all that it was made of."""
    if filesystem.type_name == "s3":
        limits = {
            "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=S3_REQUEST_ATTEMPTS),
            "request_timeout": S3_SILENCE_S,
            "connect_timeout": S3_CONNECT_S,
            # Whatever the URI says; `Folder.write_bytes` relies on it.
            "background_writes": True,
            "allow_delayed_open": False,
        }
    elif filesystem.type_name == "gcs":
        limits = {"retry_time_limit": timedelta(seconds=GCS_CALL_S)}
    else:
        return filesystem
    rebuild, (options,) = filesystem.__reduce__()
    return rebuild({**options, **limits})


def persist(work: Callable[[], T], filesystem: fs.FileSystem) -> T:
    """Do what may be done twice; anywhere but on a local disk, again while its failure may pass."""
    if not isinstance(filesystem, fs.LocalFileSystem):
        wait_s = FIRST_WAIT_S
        for _ in range(NUM_ATTEMPTS - 1):
            try:
                return work()
            except OSError as error:
                if isinstance(error, _LASTING_ERRORS) or _LASTING_WORDS.search(str(error)):
                    raise
            time.sleep(wait_s * _jitter.uniform(0.5, 1))
            wait_s = min(wait_s * _WAIT_GROWTH, LONGEST_WAIT_S)
    return work()
