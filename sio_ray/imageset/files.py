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
from sio_ray.imageset.schema import FIELDS
from sio_ray.imageset.storage import Folder
from sio_ray.reading import reason_of

#: What the pictures of a row group may unpack to.
MAX_ROW_GROUP_BYTES = 2**33

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
            check_layout(parquet)
            yield parquet
    except FileNotFoundError:
        raise ImageSetError(f"{folder.join(name)} is missing; run the stage that wrote the set again.") from None
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise ImageSetError(
            f"{folder.join(name)} cannot be read ({reason_of(error)}); find out more with `sio-ray images verify`."
        ) from error


def check_layout(parquet: pq.ParquetFile) -> None:
    """See that a shard has the columns of a set, and unpacks to no more than its pictures may take.

    Raises:
        ValueError: it does not.
    """
    schema, metadata = parquet.schema_arrow, parquet.metadata
    for field in FIELDS:
        place = schema.get_field_index(field.name)
        if place < 0 or schema.field(place).type != field.type:
            found = "none" if place < 0 else schema.field(place).type
            raise ValueError(f"column {field.name} must be {field.type} without nulls, got {found}")
    for group in range(metadata.num_row_groups):
        # A codec may make much of little; that of a set is none.
        num_bytes = metadata.row_group(group).total_byte_size
        if num_bytes > MAX_ROW_GROUP_BYTES:
            raise ValueError(f"row group {group} unpacks to {num_bytes:,} bytes, more than {MAX_ROW_GROUP_BYTES:,}")


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
        raise ImageSetError(f"cannot be read ({reason_of(error)})") from error
    if len(data) != shard.num_bytes:
        raise ImageSetError(f"has {len(data):,} bytes, the manifest says {shard.num_bytes:,}")
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise ImageSetError("has other bytes than the manifest says (SHA-256)")
    return data
