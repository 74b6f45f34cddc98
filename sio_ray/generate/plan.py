"""The plan: which image ids, labels and seeds every shard holds; a pure function of the config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np
import numpy.typing as npt

from sio_ray.imageset.shard import shard_name
from sio_ray.seeding import derive_seed

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One call of the sampler.

    Attributes:
        image_ids: (B,) int64; the last ones are repeated to fill the batch up.
        labels: (B,) int64.
        seeds: (B,) one seed per image.
        num_wanted: the first so many are wanted, the others only fill up.
    """

    image_ids: Int64Array
    labels: Int64Array
    seeds: list[int]
    num_wanted: int


@dataclass(frozen=True)
class Plan:
    """Every shard of a synthetic set.

    An image is a function of its id: its label, its seed and so its pixels. Shard k holds a fixed range of places,
    and place i is filled by image i; where a curation rule rejects that, by image i + M, then i + 2M, ... with M =
    `stride`. All of them have the same label.

    Attributes:
        num_images: of the whole set.
        class_weights: how often each class comes in relation to the others; `(1,) * C` is balanced.
        images_per_shard: rows of every shard but the last.
        sampler_batch_size: images per call of the sampler.
        base_seed: image i is drawn with a seed that depends on this and on i alone.
    """

    num_images: int
    class_weights: tuple[int, ...]
    images_per_shard: int
    sampler_batch_size: int
    base_seed: int

    @property
    def num_shards(self) -> int:
        """Shards of the set."""
        return -(-self.num_images // self.images_per_shard)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_weights)

    @cached_property
    def label_cycle(self) -> Int64Array:
        """(P,) int64: image i has label `label_cycle[i % P]`.

        Each class is spread evenly over the cycle, so every prefix of the set has the asked shares too; equal weights
        give 0, 1, ..., C - 1.
        """
        divisor = gcd(*self.class_weights)
        weights = np.array(self.class_weights, dtype=np.int64) // divisor
        labels = np.repeat(np.arange(len(weights), dtype=np.int64), weights)
        starts = np.repeat(np.cumsum(weights) - weights, weights)
        # The j-th of a class's w images stands at (j + 1/2) / w of the cycle; classes that meet keep their order.
        positions = (np.arange(len(labels)) - starts + 0.5) / weights[labels]
        return labels[np.argsort(positions, kind="stable")]

    @property
    def stride(self) -> int:
        """M: the smallest step beyond the set after which labels repeat."""
        period = len(self.label_cycle)
        return -(-self.num_images // period) * period

    def labels(self, image_ids: Int64Array) -> Int64Array:
        """(N,) labels of (N,) image ids."""
        return self.label_cycle[image_ids % len(self.label_cycle)]

    def seed(self, image_id: int) -> int:
        """The seed that an image is drawn from."""
        return derive_seed("image", self.base_seed, image_id)

    def class_counts(self) -> tuple[int, ...]:
        """Images of each class."""
        cycle = self.label_cycle
        whole, rest = divmod(self.num_images, len(cycle))
        counts = whole * np.bincount(cycle, minlength=self.num_classes)
        counts += np.bincount(cycle[:rest], minlength=self.num_classes)
        return tuple(counts.tolist())

    def shard_name(self, shard_id: int) -> str:
        """File name of a shard, in [0, num_shards)."""
        return shard_name(shard_id, self.num_shards)

    def places(self, shard_id: int) -> Int64Array:
        """(N,) the places that a shard holds, which are also the ids of the images that are tried first."""
        start = shard_id * self.images_per_shard
        return np.arange(start, min(start + self.images_per_shard, self.num_images), dtype=np.int64)

    def batches(self, image_ids: Int64Array) -> Iterator[Batch]:
        """Cut (N,) image ids into calls of the sampler.

        Every call has `sampler_batch_size` images, as kernels may give other bits for another size; the last one is
        filled up with its last image.
        """
        size = self.sampler_batch_size
        for start in range(0, len(image_ids), size):
            wanted = image_ids[start : start + size]
            padded = np.pad(wanted, (0, size - len(wanted)), mode="edge")
            seeds = [self.seed(int(image_id)) for image_id in wanted]
            yield Batch(padded, self.labels(padded), seeds + seeds[-1:] * (size - len(wanted)), len(wanted))


def class_weights_like(class_counts: Sequence[int]) -> tuple[int, ...]:
    """Weights in proportion to the classes of a real set."""
    divisor = gcd(*class_counts)
    return tuple(count // divisor for count in class_counts)
