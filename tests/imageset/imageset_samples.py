"""Small image sets of random pictures, which no codec can guess."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sio_ray.imageset import ImageSet, ImageSetInfo, Manifest, ShardEntry, write_image_set
from sio_ray.imageset.storage import Folder


def make_info(shape: tuple[int, int, int] = (3, 5, 7), num_classes: int = 3, **provenance: Any) -> ImageSetInfo:
    """Constants of a set of (C, H, W) pictures."""
    channels, height, width = shape
    names = tuple("abcdefgh"[:num_classes])
    return ImageSetInfo(class_names=names, height_px=height, width_px=width, channels=channels, provenance=provenance)


def make_images(count: int, info: ImageSetInfo, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(N, C, H, W) uint8, every value equally likely."""
    return np.random.default_rng(seed).integers(0, 256, (count, *info.image_shape), dtype=np.uint8)


def make_labels(count: int, info: ImageSetInfo) -> npt.NDArray[np.int64]:
    """(N,) int64: the classes in turn, or -1 if there are none."""
    return np.arange(count) % info.num_classes if info.num_classes else np.full(count, -1)


def write_random_set(uri: str | Path, count: int = 10, images_per_shard: int = 4, **info: Any) -> ImageSet:
    """Write a set and open it."""
    constants = make_info(**info)
    images, labels = make_images(count, constants), make_labels(count, constants)
    write_image_set(uri, constants, images, labels, images_per_shard=images_per_shard)
    return ImageSet(uri)


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Name to content of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def adopt_bytes(folder: Path, data: bytes, shard_id: int = 0) -> ImageSet:
    """Replace a shard and let the manifest vouch for it, so that its content is what gets judged."""
    manifest = Manifest.read(Folder(str(folder)))
    shards = list(manifest.shards)
    shards[shard_id] = ShardEntry.of(shards[shard_id].name, shards[shard_id].num_images, data)
    (folder / shards[shard_id].name).write_bytes(data)
    manifest.model_copy(update={"shards": tuple(shards)}).write(Folder(str(folder)))
    return ImageSet(folder)


def hollow_png(width: int, height: int) -> bytes:
    """A PNG that claims a size but holds no pixel: whoever decodes it before looking at the size finds no data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
