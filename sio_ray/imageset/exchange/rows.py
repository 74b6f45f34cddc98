"""Rows of a set as they are stored, one shard in memory at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.errors import ImageSetError
from sio_ray.imageset.files import check_layout, read_checked
from sio_ray.imageset.pictures import decode_picture, encode_png
from sio_ray.imageset.reader import ImageSet
from sio_ray.reading import reason_of

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Row(NamedTuple):
    """One picture with its PNG bytes."""

    image_id: int
    label: int
    png: bytes


def stored_shards(image_set: ImageSet) -> Iterator[list[Row]]:
    """Give the rows of one shard after the other, after a look at the shard's SHA-256.

    A picture that is stored in another format (a set made elsewhere) is brought to PNG.

    Raises:
        ImageSetError: a shard is missing or has other bytes than the manifest says.
    """
    for shard in image_set.manifest.shards:
        where = image_set.folder.join(shard.name)
        try:
            with pq.ParquetFile(io.BytesIO(read_checked(image_set.folder, shard))) as parquet:
                check_layout(parquet)
                table = parquet.read()
            columns = [table.column(name).to_pylist() for name in ("image_id", "label", "image")]
        except (ImageSetError, pa.ArrowException, KeyError, OSError, ValueError, TypeError) as error:
            raise ImageSetError(f"{where} cannot be exported: it {reason_of(error)}; write the set again.") from error
        rows = []
        for image_id, label, picture in zip(*columns, strict=True):
            data = picture["bytes"] or b"" if picture else b""
            if not data.startswith(_PNG_SIGNATURE):
                data = encode_png(decode_picture(data, image_set.info.image_shape, f"image_id {image_id} of {where}"))
            rows.append(Row(image_id, label, data))
        yield rows
