"""One shard: a Parquet file that holds a fixed range of image ids."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.errors import ImageSetError
from sio_ray.imageset.files import check_layout
from sio_ray.imageset.pictures import UInt8Array, decode_picture, encode_png
from sio_ray.imageset.schema import REJECTED_KEY, ROWS_PER_GROUP, ImageSetInfo, arrow_schema
from sio_ray.reading import parse_json, reason_of


def shard_name(shard_id: int, num_shards: int) -> str:
    """File name of shard `shard_id` of `num_shards`, counted from 0."""
    return f"part-{shard_id:05d}-of-{num_shards:05d}.parquet"


def encode_shard(
    info: ImageSetInfo,
    images: UInt8Array,
    labels: npt.NDArray[np.int64],
    image_ids: npt.NDArray[np.int64],
    paths: Sequence[str | None] | None = None,
) -> bytes:
    """Encode one shard as the bytes of a Parquet file; the same pictures give the same bytes.

    Args:
        info: constants of the set.
        images: (N, C, H, W) uint8.
        labels: (N,) int64, in [0, num_classes), or -1 in an OOD set.
        image_ids: (N,) int64.
        paths: (N,) where each picture came from; names of the form `000000042.png` if not given.
    """
    return pack_shard(info, [encode_png(image) for image in images], labels, image_ids, paths)


def pack_shard(
    info: ImageSetInfo,
    pictures: Sequence[bytes],
    labels: npt.NDArray[np.int64],
    image_ids: npt.NDArray[np.int64],
    paths: Sequence[str | None] | None = None,
    *,
    rejected_ids: Sequence[int] = (),
) -> bytes:
    """Put pictures that are encoded already into the bytes of a Parquet file.

    Args:
        info: constants of the set.
        pictures: (N,) PNG each.
        labels: (N,) int64.
        image_ids: (N,) int64.
        paths: (N,) where each picture came from; names of the form `000000042.png` if not given.
        rejected_ids: ids of pictures that were drawn and not kept; they go into the file's metadata.
    """
    if paths is None:
        paths = [f"{image_id:09d}.png" for image_id in image_ids]
    schema = arrow_schema(info)
    if rejected_ids:
        schema = schema.with_metadata({**schema.metadata, REJECTED_KEY: json.dumps([int(i) for i in rejected_ids])})
    column = pa.StructArray.from_arrays(
        [pa.array(pictures, pa.binary()), pa.array(paths, pa.string())], fields=list(schema.field("image").type)
    )
    table = pa.Table.from_arrays([column, pa.array(labels, pa.int64()), pa.array(image_ids, pa.int64())], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROWS_PER_GROUP,
        # PNG is compressed already; the two integer columns are not worth a codec.
        compression="none",
        use_dictionary=False,
        write_page_index=True,
    )
    return buffer.getvalue()


def rejected_ids(data: bytes) -> list[int]:
    """The ids that were rejected when this shard was drawn, from its bytes.

    Raises:
        pyarrow.ArrowException: no Parquet.
        ValueError: its metadata is broken.
    """
    metadata = pq.read_schema(io.BytesIO(data)).metadata or {}
    found = parse_json(metadata.get(REJECTED_KEY, b"[]"))
    if not isinstance(found, list) or not all(isinstance(image_id, int) for image_id in found):
        raise ValueError("its rejected ids are no list of whole numbers")
    return found


def decode_shard(
    data: bytes, info: ImageSetInfo, where: str
) -> tuple[UInt8Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Decode the bytes of one shard.

    Args:
        data: the whole Parquet file.
        info: constants of the set, by which sizes and labels are checked.
        where: what to call the shard in an error.

    Returns:
        images (N, C, H, W) uint8, labels (N,) int64, image ids (N,) int64.

    Raises:
        ImageSetError: no Parquet, another schema, a picture that does not decode, a label out of range.
    """
    try:
        with pq.ParquetFile(io.BytesIO(data)) as parquet:
            check_layout(parquet)
            table = parquet.read(["image", "label", "image_id"])
        for field in arrow_schema(info):
            column = table.column(field.name)
            if column.type != field.type or column.null_count:
                raise TypeError(f"column {field.name} must be {field.type} without nulls, got {column.type}")
        pictures = table.column("image").combine_chunks().field("bytes").to_pylist()
        labels = table.column("label").to_numpy()
        image_ids = table.column("image_id").to_numpy()
    except (pa.ArrowException, KeyError, OSError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise ImageSetError(
            f"{where} is corrupt ({reason_of(error)}); delete it and run the stage that wrote the set again."
        ) from error
    lowest = 0 if info.num_classes else -1
    outside = (labels < lowest) | (labels >= max(info.num_classes, 0))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        allowed = f"[0, {info.num_classes})" if info.num_classes else "-1 (an OOD set)"
        raise ImageSetError(
            f"{where} has label {labels[row]} at image_id {image_ids[row]}, its set allows {allowed}; "
            "write the set again."
        )
    images = np.empty((len(pictures), *info.image_shape), dtype=np.uint8)
    for row, data in enumerate(pictures):
        images[row] = decode_picture(data, info.image_shape, f"image_id {image_ids[row]} of {where}")
    return images, labels, image_ids
