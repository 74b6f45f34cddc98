"""Writes an image set that is already in memory: shards first, manifest last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sio_ray.errors import ImageSetError
from sio_ray.imageset.manifest import MANIFEST_NAME, Manifest, ShardEntry
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.imageset.schema import ImageSetInfo
from sio_ray.imageset.shard import encode_shard, shard_name
from sio_ray.imageset.storage import Folder


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
    _check(folder, info, images, labels)
    if images_per_shard < 1:
        raise ImageSetError(f"image set {folder.uri}: images_per_shard must be at least 1, got {images_per_shard}.")
    if paths is not None and len(paths) != len(images):
        raise ImageSetError(f"image set {folder.uri}: {len(images)} images but {len(paths)} paths; give one path each.")
    num_shards = -(-len(images) // images_per_shard)
    entries = []
    for shard_id in range(num_shards):
        rows = slice(shard_id * images_per_shard, min((shard_id + 1) * images_per_shard, len(images)))
        image_ids = np.arange(rows.start, rows.stop, dtype=np.int64)
        data = encode_shard(info, images[rows], labels[rows], image_ids, None if paths is None else paths[rows])
        name = shard_name(shard_id, num_shards)
        folder.write_bytes(name, data)
        entries.append(ShardEntry.of(name, len(image_ids), data))
    manifest = Manifest(
        info=info,
        num_images=len(images),
        class_counts=tuple(np.bincount(labels, minlength=info.num_classes).tolist()) if info.num_classes else (),
        shards=tuple(entries),
    )
    manifest.write(folder)
    return manifest


def _check(folder: Folder, info: ImageSetInfo, images: UInt8Array, labels: npt.NDArray[np.int64]) -> None:
    if folder.exists(MANIFEST_NAME):
        raise ImageSetError(f"image set {folder.uri} exists already; give another folder, or delete it first.")
    if len(images) == 0:
        raise ImageSetError(f"image set {folder.uri} would hold no image; give at least one.")
    if images.shape[1:] != info.image_shape or images.dtype != np.uint8:
        raise ImageSetError(
            f"image set {folder.uri}: images must be uint8 of shape (N, {', '.join(map(str, info.image_shape))}), "
            f"got {images.dtype} of shape {images.shape}; bring them to one size first."
        )
    if len(labels) != len(images):
        raise ImageSetError(
            f"image set {folder.uri}: {len(images)} images but {len(labels)} labels; give one label each."
        )
    if not info.num_classes:
        if (labels != -1).any():
            raise ImageSetError(f"image set {folder.uri} names no classes, so every label must be -1 (OOD).")
        return
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise ImageSetError(
            f"image set {folder.uri}: labels must be in [0, {info.num_classes}), got {labels.min()}..{labels.max()}; "
            "number the classes from 0 in the order of their names."
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=info.num_classes) == 0)
    if len(empty):
        names = ", ".join(info.class_names[c] for c in empty)
        raise ImageSetError(f"image set {folder.uri} has no image of class {names}; add some, or drop the class.")
