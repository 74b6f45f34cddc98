"""Which images of every source a worker takes at a step: what both engines, and the sampler, agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from sio_ray.classifier.feed.composition import compose
from sio_ray.classifier.feed.order import Indices, Order, Passes
from sio_ray.errors import BatchError, ConfigError

Source = Literal["real", "synthetic", "outliers", "mixing"]

#: Pictures that are augmented and handed over as one tensor, a field of `MixedBatch`.
Group = Literal["images", "outliers", "mixing"]
GROUPS: dict[Source, Group] = {"real": "images", "synthetic": "images", "outliers": "outliers", "mixing": "mixing"}

#: What an error calls the sets.
SET_NAMES: dict[Source, str] = {"real": "real", "synthetic": "synthetic", "outliers": "outlier", "mixing": "mixing"}


class FeedPlan:
    """Which images a worker takes, as a pure function of seed and step.

    Args:
        sizes: images of each source that there is.
        order: makes the order of a source.
        global_batch_size: real and synthetic images per batch, over all workers.
        real_batch_share: share of them that is real, in [0, 1].
        num_outliers: outliers per batch, over all workers.
        rank: position of this worker.
        world_size: number of workers.
        pool_size: how many synthetic images, those of the lowest ids, are in use at a step; all if None. It is asked
            when a pass over them begins, at the first step that the pass serves.

    Attributes:
        composition: of the global batch.
        positions: (B,) where this worker's images stand in the global batch.
        counts: images of each source in the global batch; sources of which there are none are left out.
        local: which of those are this worker's, by source.
        members: sources of each group, in the order in which their pictures stand.
        group_sizes: pictures of each group in the global batch.
        places: where this worker's pictures of each source stand in the group.

    Raises:
        BatchError: a batch cannot be composed so, or `pool_size` asks for none or for more than there are.
        ConfigError: `real_batch_share` is out of range.
    """

    def __init__(
        self,
        sizes: Mapping[Source, int],
        order: Callable[[Source], Order],
        *,
        global_batch_size: int,
        real_batch_share: float,
        num_outliers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pool_size: Callable[[int], int] | None = None,
    ) -> None:
        if not 0 <= real_batch_share <= 1:
            raise ConfigError("real_batch_share", "in [0, 1]", real_batch_share, "give a share, not a percentage")
        self.composition = compose(global_batch_size, real_batch_share, num_outliers)
        if global_batch_size < world_size:
            raise BatchError(f"a batch of {global_batch_size} cannot feed {world_size} workers; take a larger batch.")
        parts = self.composition.of_rank(rank, world_size)
        num_real, num_synthetic = self.composition.num_real, self.composition.num_synthetic
        real, synthetic = np.arange(num_real)[parts.real], np.arange(num_synthetic)[parts.synthetic]
        self.positions: Indices = np.concatenate([real, num_real + synthetic])
        wanted: dict[Source, tuple[int, Indices]] = {
            "real": (num_real, real),
            "synthetic": (num_synthetic, synthetic),
            "outliers": (num_outliers, np.arange(num_outliers)[parts.outliers]),
            # One for every image, so that it is the same one on whatever worker the image is.
            "mixing": (self.composition.batch_size if sizes.get("mixing") else 0, self.positions),
        }
        for source, (count, _) in wanted.items():
            if count and not sizes.get(source):
                needs = f"{count} {SET_NAMES[source]} images" if source != "outliers" else f"{count} outliers"
                change = "num_outliers" if source == "outliers" else "real_batch_share"
                raise BatchError(
                    f"a batch of {global_batch_size} at real_batch_share {real_batch_share} needs {needs}, "
                    f"but there is no {SET_NAMES[source]} set; give one, or change {change}."
                )
        self.counts: dict[Source, int] = {source: count for source, (count, _) in wanted.items() if count}
        self.local: dict[Source, Indices] = {source: wanted[source][1] for source in self.counts}
        self.members: dict[Group, list[Source]] = {}
        for source in self.counts:
            self.members.setdefault(GROUPS[source], []).append(source)
        self.group_sizes: dict[Group, int] = {
            "images": self.composition.batch_size,
            "outliers": num_outliers,
            "mixing": self.composition.batch_size,
        }
        self.places = {source: rows + num_real * (source == "synthetic") for source, rows in self.local.items()}
        self._sizes, self._pool_size = dict(sizes), pool_size
        self.passes = {source: Passes(order(source), self._size_at(source)) for source in self.counts}

    def global_rows(self, source: Source, step: int) -> Indices:
        """Images of a source in global batch `step`, by their place in the set; none where batches hold none."""
        count = self.counts.get(source, 0)
        return self.passes[source].take(step * count, count) if count else np.empty(0, dtype=np.int64)

    def rows(self, source: Source, step: int) -> Indices:
        """Those of this worker."""
        return self.global_rows(source, step)[self.local[source]] if source in self.local else np.empty(0, np.int64)

    def _size_at(self, source: Source) -> Callable[[int], int]:
        size, pool_size = self._sizes[source], self._pool_size
        if source != "synthetic" or pool_size is None:
            return lambda position: size
        count = self.counts[source]

        def size_at(position: int) -> int:
            pool = pool_size(position // count)
            if not 0 < pool <= size:
                raise BatchError(
                    f"step {position // count} asks for {pool} synthetic images of {size}; "
                    "let the ratio's ramp start above 0, and end at most at what was drawn."
                )
            return pool

        return size_at
