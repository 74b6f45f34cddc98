"""Reads finished image sets, whole into memory or shard by shard, and checks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset.files import open_shard
from sio_ray.imageset.manifest import Manifest, ShardEntry
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.imageset.schema import ImageSetInfo
from sio_ray.imageset.shard import decode_shard
from sio_ray.imageset.storage import Folder
from sio_ray.reading import reason_of


@dataclass(frozen=True)
class ImageArrays:
    """The decoded images of a set.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64; -1 where the set is OOD.
        image_ids: (N,) int64; of a synthetic set in the order of its places, which a curation rule may leave unsorted.
    """

    images: UInt8Array
    labels: npt.NDArray[np.int64]
    image_ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> ImageArrays:
        """The images with the `count` lowest ids; balanced over classes in a set that `generate` drew."""
        return ImageArrays(self.images[:count], self.labels[:count], self.image_ids[:count])


class ImageSet:
    """A finished image set.

    Args:
        uri: path or URI of its folder.

    Raises:
        ImageSetError: the set is missing, unfinished (no manifest) or empty.
    """

    def __init__(self, uri: str | Path) -> None:
        self.folder = Folder(str(uri))
        self.manifest = Manifest.read(self.folder)
        if self.manifest.num_images == 0:
            raise ImageSetError(f"image set {self} holds no image; give a set with at least one.")

    def __len__(self) -> int:
        return self.manifest.num_images

    def __str__(self) -> str:
        """Path or URI, without secrets; for messages."""
        return self.folder.safe_uri

    @property
    def info(self) -> ImageSetInfo:
        """Constants of the set."""
        return self.manifest.info

    @property
    def uri(self) -> str:
        """Path or URI of the set, to open it elsewhere; it may hold a secret."""
        return self.folder.uri

    def count(self, limit: int | None) -> int:
        """How many images there are of the `limit` lowest ids; all if None."""
        return len(self) if limit is None else min(limit, len(self))

    def read_shard(self, shard: ShardEntry) -> ImageArrays:
        """Read and decode one shard.

        Raises:
            ImageSetError: the shard is missing or its bytes are not those that the manifest names.
        """
        where = self.folder.join(shard.name)
        try:
            data = self.folder.read_bytes(shard.name)
        except FileNotFoundError:
            raise ImageSetError(f"{where} is missing; run the stage that wrote the set again.") from None
        except OSError as error:
            raise ImageSetError(
                f"{where} cannot be read ({reason_of(error)}); check the disk and your access to it."
            ) from error
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise ImageSetError(
                f"{where} is corrupt (its SHA-256 is not the manifest's); "
                "delete the shard and manifest.json, and run the stage that wrote the set again."
            )
        images, labels, image_ids = decode_shard(data, self.info, where)
        if len(labels) != shard.num_images:
            raise ImageSetError(
                f"{where} has {len(labels)} rows, its manifest says {shard.num_images}; write the set again."
            )
        return ImageArrays(images, labels, image_ids)

    def read_labels(self, limit: int | None = None) -> npt.NDArray[np.int64]:
        """The labels without the pictures, (N,) int64.

        Args:
            limit: only those of the `limit` lowest ids.

        Raises:
            ImageSetError: a shard is missing, or is none.
        """
        count, found = self.count(limit), [np.empty(0, dtype=np.int64)]
        for shard in self.manifest.shards:
            if sum(map(len, found)) >= count:
                break
            with open_shard(self.folder, shard.name) as parquet:
                found.append(parquet.read(["label"]).column(0).to_numpy())
        return np.concatenate(found)[:count]

    def shards(self) -> Iterator[ImageArrays]:
        """Decode one shard after the other; memory stays that of one shard."""
        for shard in self.manifest.shards:
            yield self.read_shard(shard)

    def read(self, limit: int | None = None) -> ImageArrays:
        """Decode the whole set into memory.

        Args:
            limit: only the images with the `limit` lowest ids, and only the shards that hold them.
        """
        count = self.count(limit)
        # Filled in place: pieces that are put together at the end would take the memory twice.
        try:
            whole = ImageArrays(
                images=np.empty((count, *self.info.image_shape), dtype=np.uint8),
                labels=np.empty(count, dtype=np.int64),
                image_ids=np.empty(count, dtype=np.int64),
            )
        except (MemoryError, ValueError) as error:
            raise ResourceError(
                f"image set {self} does not fit into memory ({reason_of(error)}); read it shard by shard."
            ) from error
        start = 0
        for shard in self.manifest.shards:
            if start == count:
                break
            part = self.read_shard(shard).first(count - start)
            rows = slice(start, start + len(part))
            whole.images[rows], whole.labels[rows], whole.image_ids[rows] = part.images, part.labels, part.image_ids
            start = rows.stop
        return whole
