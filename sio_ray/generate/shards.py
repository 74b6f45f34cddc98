"""Draws one shard of a plan and writes it whole; the unit of work that actors repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sio_ray.errors import GenerationError
from sio_ray.generate.plan import ShardPlan
from sio_ray.imageset import ImageSetInfo, ShardEntry
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.imageset.shard import decode_shard, encode_shard
from sio_ray.imageset.storage import Folder


class Sampler(Protocol):
    """Anything that draws pictures of asked classes from asked seeds."""

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """Draw (B, C, H, W) uint8 for (B,) labels and seeds."""


def draw_shard(sampler: Sampler, plan: ShardPlan, info: ImageSetInfo, folder: Folder) -> ShardEntry:
    """Draw a shard and write it whole.

    Raises:
        GenerationError: the sampler gave pictures of another shape than the set's.
    """
    parts = []
    for labels, seeds, count in plan.batches():
        pictures = sampler.sample(labels, seeds)
        if pictures.shape[1:] != info.image_shape:
            raise GenerationError(
                f"shard {plan.shard_id}: the generator draws pictures of shape {pictures.shape[1:]}, "
                f"the training set has {info.image_shape}; use a generator fitted to that set."
            )
        parts.append(pictures[:count])
    data = encode_shard(info, np.concatenate(parts), plan.labels, plan.image_ids)
    folder.write_bytes(plan.name, data)
    return ShardEntry.of(plan.name, len(plan.labels), data)


def adopt_shard(plan: ShardPlan, info: ImageSetInfo, folder: Folder) -> ShardEntry:
    """Describe a shard that an earlier run wrote, once it is seen to hold what the plan says.

    Raises:
        ImageSetError: it does not decode.
        GenerationError: it holds other images.
    """
    data = folder.read_bytes(plan.name)
    _, labels, image_ids = decode_shard(data, info, folder.join(plan.name))
    if not (np.array_equal(image_ids, plan.image_ids) and np.array_equal(labels, plan.labels)):
        raise GenerationError(
            f"{folder.join(plan.name)} holds other images than the plan; delete that shard and generate again."
        )
    return ShardEntry.of(plan.name, len(plan.labels), data)
