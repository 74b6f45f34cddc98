"""The plan: which image ids, labels and seeds every shard holds; a pure function of the config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sio_ray.imageset.shard import shard_name
from sio_ray.seeding import derive_seed


@dataclass(frozen=True)
class ShardPlan:
    """What one shard holds.

    Attributes:
        shard_id: from 0.
        name: its file name.
        image_ids: (N,) int64, consecutive.
        labels: (N,) int64.
        seeds: (N,) one seed per image.
        sampler_batch_size: images per call of the sampler.
    """

    shard_id: int
    name: str
    image_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    seeds: tuple[int, ...]
    sampler_batch_size: int

    def batches(self) -> Iterator[tuple[npt.NDArray[np.int64], list[int], int]]:
        """Labels, seeds and number of wanted images of each call of the sampler.

        Every call has `sampler_batch_size` images, as kernels may give other bits for another size; the last one of
        the shard is filled up with its last image, and the surplus is dropped.
        """
        for start in range(0, len(self.labels), self.sampler_batch_size):
            labels = self.labels[start : start + self.sampler_batch_size]
            seeds = self.seeds[start : start + self.sampler_batch_size]
            missing = self.sampler_batch_size - len(labels)
            yield np.pad(labels, (0, missing), mode="edge"), [*seeds, *[seeds[-1]] * missing], len(labels)


@dataclass(frozen=True)
class Plan:
    """Every shard of a synthetic set.

    Labels are balanced: image i has label i mod C, so every prefix of the set is balanced too.

    Attributes:
        num_images: of the whole set.
        num_classes: C.
        images_per_shard: rows of every shard but the last.
        sampler_batch_size: images per call of the sampler.
        base_seed: image i is drawn with a seed that depends on this and on i alone.
    """

    num_images: int
    num_classes: int
    images_per_shard: int
    sampler_batch_size: int
    base_seed: int

    @property
    def num_shards(self) -> int:
        """Shards of the set."""
        return -(-self.num_images // self.images_per_shard)

    def shard(self, shard_id: int) -> ShardPlan:
        """The plan of one shard, in [0, num_shards)."""
        start = shard_id * self.images_per_shard
        image_ids = np.arange(start, min(start + self.images_per_shard, self.num_images), dtype=np.int64)
        return ShardPlan(
            shard_id=shard_id,
            name=shard_name(shard_id, self.num_shards),
            image_ids=image_ids,
            labels=image_ids % self.num_classes,
            seeds=tuple(derive_seed("image", self.base_seed, int(i)) for i in image_ids),
            sampler_batch_size=self.sampler_batch_size,
        )

    def class_counts(self) -> tuple[int, ...]:
        """Images of each class; they differ by at most one."""
        return tuple(len(range(label, self.num_images, self.num_classes)) for label in range(self.num_classes))
