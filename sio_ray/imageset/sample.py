"""Takes a few rows out of a set, reading only the shards and row groups that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from sio_ray.errors import ImageSetError
from sio_ray.imageset.files import open_shard
from sio_ray.imageset.foreign_pictures import decoding, open_picture
from sio_ray.imageset.pictures import UInt8Array, decode_picture
from sio_ray.imageset.reader import ImageSet


def first_rows(image_set: ImageSet, count: int) -> list[dict[str, Any]]:
    """The first rows of a set as JSON values, without their pixels.

    Raises:
        ImageSetError: a shard that is needed is missing, or is no Parquet file.
    """
    rows: list[dict[str, Any]] = []
    for shard in image_set.manifest.shards:
        with open_shard(image_set.folder, shard.name) as parquet:
            for group in range(parquet.num_row_groups):
                if len(rows) >= count:
                    return rows
                stored = parquet.read_row_group(group).slice(0, count - len(rows)).to_pylist()
                rows += [_describe(row, image_set.info.class_names) for row in stored]
    return rows


def _describe(row: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
    data, label = row["image"]["bytes"], row["label"]
    try:
        with decoding("of a row"), open_picture(data or b"") as picture:  # which reads the head alone
            kind = {"format": picture.format, "width_px": picture.width, "height_px": picture.height}
    except ImageSetError:
        kind = {"format": "unreadable", "width_px": None, "height_px": None}
    return {
        "image_id": row["image_id"],
        "label": label,
        "class": class_names[label] if 0 <= label < len(class_names) else None,
        **kind,
        "bytes": len(data or b""),
        "path": row["image"]["path"],
    }


def sample_pictures(image_set: ImageSet, wanted: Mapping[int, int], seed: int) -> dict[int, UInt8Array]:
    """Choose pictures by chance, a row group at a time.

    Args:
        image_set: a finished set.
        wanted: label to the number of pictures; fewer are given where a class has fewer.
        seed: of the choice.

    Returns:
        Label to (K, C, H, W) uint8.

    Raises:
        ImageSetError: a shard that is needed is missing, or a picture does not decode.
    """
    rng = np.random.default_rng(seed)
    counts = dict(enumerate(image_set.manifest.class_counts)) or {-1: len(image_set)}
    chosen: dict[int, list[UInt8Array]] = {label: [] for label in wanted}
    missing = {label: min(count, counts[label]) for label, count in wanted.items()}
    for shard_id in _visiting_order(image_set, list(wanted), rng):
        if not any(missing.values()):
            break
        name = image_set.manifest.shards[shard_id].name
        with open_shard(image_set.folder, name) as parquet:
            labels = parquet.read(["label"]).column(0).to_numpy()
            bounds = np.cumsum([0] + [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)])
            for group in rng.permutation(parquet.num_row_groups):
                rows = _choose(labels[bounds[group] : bounds[group + 1]], missing, rng)
                for (label, _), picture in zip(rows, _pictures(image_set, parquet, group, rows, name), strict=True):
                    chosen[label].append(picture)
    return {label: np.array(pictures, dtype=np.uint8) for label, pictures in chosen.items()}


def _visiting_order(image_set: ImageSet, labels: list[int], rng: np.random.Generator) -> list[int]:
    """A shard by chance, then those that hold the labels if the set is sorted by class, then all others by chance.

    Where classes are mixed the first shards hold them all; where they are sorted no shard is opened in vain.
    """
    num_shards = len(image_set.manifest.shards)
    by_chance = rng.permutation(num_shards).tolist()
    shard_ends = np.cumsum([shard.num_images for shard in image_set.manifest.shards])
    class_starts = np.cumsum([0, *image_set.manifest.class_counts])
    if_sorted = np.searchsorted(shard_ends, class_starts[[label for label in labels if label >= 0]], side="right")
    order = [*by_chance[:1], *if_sorted.tolist(), *by_chance]
    return [shard_id for shard_id in dict.fromkeys(order) if shard_id < num_shards]


def _choose(labels: npt.NDArray[np.int64], missing: dict[int, int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """(label, row) of the pictures to take out of a row group; lowers `missing` by them."""
    rows = []
    for label, count in missing.items():
        taken = rng.permutation(np.flatnonzero(labels == label))[:count]
        missing[label] -= len(taken)
        rows += [(label, int(row)) for row in taken]
    return rows


def _pictures(
    image_set: ImageSet, parquet: pq.ParquetFile, group: int, rows: list[tuple[int, int]], name: str
) -> list[UInt8Array]:
    if not rows:
        return []
    column = parquet.read_row_group(group, ["image"]).column(0)
    where = image_set.folder.join(name)
    return [
        decode_picture(column[row]["bytes"].as_py(), image_set.info.image_shape, f"row {row} of {where}")
        for _, row in rows
    ]
