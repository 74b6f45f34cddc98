"""The files of an image set as they lie in its folder: counted, opened in part, checked."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.errors import ImageSetError
from sio_ray.imageset.manifest import ShardEntry
from sio_ray.imageset.storage import Folder

_SHARD_NAME = re.compile(r"part-\d{5,}-of-(\d{5,})\.parquet")


def is_shard(name: str) -> bool:
    """Whether a file is named as a shard is."""
    return _SHARD_NAME.fullmatch(name) is not None


def shards_done(names: Iterable[str]) -> tuple[int, int]:
    """How many shards lie in a folder, and how many its set has by their names."""
    totals = Counter(int(match[1]) for match in map(_SHARD_NAME.fullmatch, names) if match)
    if not totals:
        return 0, 0
    total, done = totals.most_common(1)[0]
    return done, total


@contextmanager
def open_shard(folder: Folder, name: str) -> Iterator[pq.ParquetFile]:
    """Open a shard to read some of its columns or row groups.

    Raises:
        ImageSetError: it is missing or no Parquet file.
    """
    try:
        with folder.open(name) as stream, pq.ParquetFile(stream) as parquet:
            yield parquet
    except FileNotFoundError:
        raise ImageSetError(f"{folder.join(name)} is missing; run the stage that wrote the set again.") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ImageSetError(
            f"{folder.join(name)} cannot be read ({str(error).splitlines()[0]}); find out more with "
            "`sio-ray images verify`."
        ) from error


def read_checked(folder: Folder, shard: ShardEntry) -> bytes:
    """Read a whole shard and compare its bytes with the manifest.

    Raises:
        ImageSetError: with the reason alone, as the caller knows what it does with the set.
    """
    try:
        data = folder.read_bytes(shard.name)
    except FileNotFoundError:
        raise ImageSetError("is missing") from None
    except OSError as error:
        raise ImageSetError(f"cannot be read ({str(error).splitlines()[0]})") from error
    if len(data) != shard.num_bytes:
        raise ImageSetError(f"has {len(data):,} bytes, the manifest says {shard.num_bytes:,}")
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise ImageSetError("has other bytes than the manifest says (SHA-256)")
    return data
