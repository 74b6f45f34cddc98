"""Writes an image set, from memory or as a stream: shards first, manifest last."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sio_ray.errors import ImageSetError
from sio_ray.imageset.files import is_shard
from sio_ray.imageset.manifest import MANIFEST_NAME, Manifest, ShardEntry
from sio_ray.imageset.pictures import UInt8Array, encode_png
from sio_ray.imageset.schema import ROWS_PER_GROUP, ImageSetInfo
from sio_ray.imageset.shard import pack_shard, shard_name
from sio_ray.imageset.storage import Folder


class Batch(NamedTuple):
    """Some rows of a set that is being written.

    Attributes:
        images: (B, C, H, W) uint8.
        labels: (B,) int64.
        paths: (B,) where each picture came from; none if not known.
    """

    images: UInt8Array
    labels: npt.NDArray[np.int64]
    paths: Sequence[str | None] | None = None


def write_image_set(
    uri: str | Path,
    info: ImageSetInfo,
    images: UInt8Array,
    labels: npt.NDArray[np.int64],
    *,
    paths: Sequence[str | None] | None = None,
    images_per_shard: int = 4096,
) -> Manifest:
    """Write a whole image set; image ids are the positions in `images`.

    Args:
        uri: path or URI of the set's folder.
        info: constants of the set.
        images: (N, C, H, W) uint8, N at least 1.
        labels: (N,) int64, in [0, num_classes), or all -1 where `info` names no classes.
        paths: (N,) where each picture came from.
        images_per_shard: rows of every shard but the last.

    Returns:
        The manifest that was written.

    Raises:
        ImageSetError: no image, a wrong shape, a label out of range, a class without images, paths or shards that do
            not fit, or the set exists.
    """
    folder = Folder(str(uri))
    _check_place(folder, len(images))
    _check_batch(folder, info, Batch(images, labels, paths))
    check_counts(folder.safe_uri, info, class_counts(labels, info))
    return stream_image_set(
        uri,
        info,
        len(images),
        lambda start, stop: Batch(images[start:stop], labels[start:stop], None if paths is None else paths[start:stop]),
        images_per_shard=images_per_shard,
    )


def stream_image_set(
    uri: str | Path,
    info: ImageSetInfo,
    num_images: int,
    read: Callable[[int, int], Batch],
    *,
    images_per_shard: int = 4096,
) -> Manifest:
    """Write an image set whose pictures are read as they are needed; memory stays that of one shard's PNG bytes.

    What an interrupted writer left in the folder is deleted first, so that no stale shard lies beside the new ones.

    Args:
        uri: path or URI of the set's folder.
        info: constants of the set.
        num_images: N, at least 1.
        read: gives the rows [start, stop); called in order, for a few hundred rows at a time.
        images_per_shard: rows of every shard but the last.

    Returns:
        The manifest that was written.

    Raises:
        ImageSetError: as `write_image_set`, but what is wrong with a row shows only when it is read; then there is no
            manifest.
    """
    folder = Folder(str(uri))
    _check_place(folder, num_images)
    if images_per_shard < 1:
        raise ImageSetError(
            f"image set {folder.safe_uri}: images_per_shard must be at least 1, got {images_per_shard}."
        )
    for stale in filter(is_shard, folder.files()):
        folder.delete(stale)
    num_shards = -(-num_images // images_per_shard)
    counts = np.zeros(info.num_classes, dtype=np.int64)
    entries = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for shard_id in range(num_shards):
            start, stop = shard_id * images_per_shard, min((shard_id + 1) * images_per_shard, num_images)
            pictures: list[bytes] = []
            labels: list[npt.NDArray[np.int64]] = []
            paths: list[str | None] = []
            for first in range(start, stop, ROWS_PER_GROUP):
                last = min(first + ROWS_PER_GROUP, stop)
                batch = read(first, last)
                _check_batch(folder, info, batch)
                pictures += pool.map(encode_png, batch.images)
                labels.append(batch.labels)
                paths += [f"{i:09d}.png" for i in range(first, last)] if batch.paths is None else batch.paths
            counts += class_counts(np.concatenate(labels), info)
            data = pack_shard(info, pictures, np.concatenate(labels), np.arange(start, stop, dtype=np.int64), paths)
            entries.append(ShardEntry.of(shard_name(shard_id, num_shards), stop - start, data))
            folder.write_bytes(entries[-1].name, data)
    check_counts(folder.safe_uri, info, counts)
    manifest = Manifest(info=info, num_images=num_images, class_counts=tuple(counts.tolist()), shards=tuple(entries))
    manifest.write(folder)
    return manifest


def class_counts(labels: npt.NDArray[np.int64], info: ImageSetInfo) -> npt.NDArray[np.int64]:
    """Images of each class, (C,) int64; empty for an OOD set."""
    return np.bincount(labels, minlength=info.num_classes) if info.num_classes else np.zeros(0, dtype=np.int64)


def check_counts(where: str, info: ImageSetInfo, counts: npt.NDArray[np.int64]) -> None:
    """Refuse a class without images.

    Raises:
        ImageSetError: with the names of the empty classes.
    """
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        names = ", ".join(info.class_names[c] for c in empty)
        raise ImageSetError(f"image set {where} has no image of class {names}; add some, or drop the class.")


def _check_place(folder: Folder, num_images: int) -> None:
    if folder.exists(MANIFEST_NAME):
        raise ImageSetError(f"image set {folder.safe_uri} exists already; give another folder, or delete it first.")
    if num_images == 0:
        raise ImageSetError(f"image set {folder.safe_uri} would hold no image; give at least one.")


def _check_batch(folder: Folder, info: ImageSetInfo, batch: Batch) -> None:
    images, labels, paths = batch
    where = f"image set {folder.safe_uri}"
    if images.shape[1:] != info.image_shape or images.dtype != np.uint8:
        raise ImageSetError(
            f"{where}: images must be uint8 of shape (N, {', '.join(map(str, info.image_shape))}), "
            f"got {images.dtype} of shape {images.shape}; bring them to one size first."
        )
    if len(labels) != len(images):
        raise ImageSetError(f"{where}: {len(images)} images but {len(labels)} labels; give one label each.")
    if paths is not None and len(paths) != len(images):
        raise ImageSetError(f"{where}: {len(images)} images but {len(paths)} paths; give one path each.")
    if not info.num_classes:
        if (labels != -1).any():
            raise ImageSetError(f"{where} names no classes, so every label must be -1 (OOD).")
    elif labels.min() < 0 or labels.max() >= info.num_classes:
        raise ImageSetError(
            f"{where}: labels must be in [0, {info.num_classes}), got {labels.min()}..{labels.max()}; "
            "number the classes from 0 in the order of their names."
        )
