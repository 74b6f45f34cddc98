"""Image sets in Ray's object store: decoded once, in parallel, and shared by all workers of a node without copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ray

from sio_ray.cluster import value_of
from sio_ray.errors import ResourceError
from sio_ray.imageset import ImageArrays, ImageSet
from sio_ray.imageset.pixel_counts import PixelCounts, count_pixels
from sio_ray.progress import CountProgress, count_progress

#: URI of a set, and how many of its images, those of the lowest ids; None for all.
SourceSpec = tuple[str, int | None]


def decoded_bytes(image_set: ImageSet, limit: int | None = None) -> int:
    """What the pictures of a set take in memory, by its manifest; with `limit`, those of the lowest ids."""
    return image_set.count(limit) * math.prod(image_set.info.image_shape)


def share(specs: Mapping[str, SourceSpec], *, remedy: str = "set train.feed=stream") -> dict[str, Any]:
    """Decode sets into the object store, all shards of a set in parallel; pixels never come to the driver.

    What a lost node held is decoded again when it is asked for.

    Args:
        specs: name to set.
        remedy: what else to do if memory is too small.

    Returns:
        Per name an object reference for `fetch`; names with the same set and limit have the same one.

    Raises:
        ImageSetError: a set is missing or unfinished, or a shard is corrupt.
        ResourceError: the object store of a node cannot hold them.
    """
    sets = {spec: ImageSet(spec[0]) for spec in specs.values()}
    sizes = {spec: decoded_bytes(image_set, spec[1]) for spec, image_set in sets.items()}
    # The shards of one set are there besides it while it is put together.
    _check_store(sum(sizes.values()) + max(sizes.values(), default=0), remedy)
    counts = {spec: image_set.count(spec[1]) for spec, image_set in sets.items()}
    with count_progress("decode", sum(counts.values()), "images") as progress:
        shared = {spec: _share_one(image_set, counts[spec], progress) for spec, image_set in sets.items()}
    return {name: shared[spec] for name, spec in specs.items()}


def fetch(shared: Any) -> ImageArrays:
    """Open what `share` has decoded, in any worker; the arrays are read-only and belong to the object store.

    Raises:
        ImageSetError: it was lost, and a shard is corrupt now.
    """
    arrays: ImageArrays = value_of(shared)
    return arrays


def pixel_counts_of(uri: str) -> PixelCounts:
    """Count the levels of the pixels of a whole set, with shards in parallel; no picture comes to the driver.

    Raises:
        ImageSetError: the set is missing or unfinished, or a shard is corrupt.
    """
    image_set = ImageSet(uri)
    counts = np.zeros((image_set.info.channels, 256), dtype=np.int64)
    with count_progress("measure pixels", len(image_set), "images") as progress:
        measure = _task(_count_shard)
        pending = {
            measure.remote(uri, shard_id): shard.num_images for shard_id, shard in enumerate(image_set.manifest.shards)
        }
        while pending:
            (ready, *_), _ = ray.wait(list(pending))
            counts += value_of(ready)
            progress.advance(pending.pop(ready))
    return counts


def _share_one(image_set: ImageSet, count: int, progress: CountProgress) -> Any:
    decode, parts, pending, num_left = _task(_decode, num_returns=2), [], {}, count
    for shard_id, shard in enumerate(image_set.manifest.shards):
        if num_left > 0 or shard_id == 0:  # a set of no image has shapes, too
            part, done = decode.remote(image_set.uri, shard_id, num_left)
            parts.append(part)
            pending[done] = min(shard.num_images, num_left)
            num_left -= pending[done]
    while pending:
        (ready, *_), _ = ray.wait(list(pending))
        value_of(ready)  # whether it went well; the pictures would come to this node
        progress.advance(pending.pop(ready))
    whole, done = _task(_put_together, num_returns=2).remote(*parts)
    value_of(done)
    return whole


def _check_store(num_bytes: int, remedy: str) -> None:
    stores = [
        node["Resources"].get("object_store_memory", 0)
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) > 0
    ]
    if num_bytes > min(stores):
        raise ResourceError(
            f"decoding the sets into memory takes {num_bytes / 1e9:.2f} GB of Ray's object store on a node, the "
            f"smallest has {min(stores) / 1e9:.2f} GB; {remedy}, or start Ray with a larger "
            "object_store_memory."
        )


def _task(function: Callable[..., Any], num_returns: int = 1) -> Any:
    return ray.remote(num_cpus=1, num_returns=num_returns)(function)


def _decode(uri: str, shard_id: int, count: int) -> tuple[ImageArrays, None]:
    image_set = ImageSet(uri)
    return image_set.read_shard(image_set.manifest.shards[shard_id]).first(count), None


def _put_together(*parts: ImageArrays) -> tuple[ImageArrays, None]:
    fields = zip(*((part.images, part.labels, part.image_ids) for part in parts), strict=True)
    return ImageArrays(*(np.concatenate(of_field) for of_field in fields)), None


def _count_shard(uri: str, shard_id: int) -> PixelCounts:
    image_set = ImageSet(uri)
    return count_pixels(image_set.read_shard(image_set.manifest.shards[shard_id]).images)
