"""Mixed batches for a training loop of one's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed.composition import Composition
from sio_ray.classifier.feed.memory import MemoryFeed
from sio_ray.classifier.feed.sources import Sources
from sio_ray.errors import BatchError
from sio_ray.imageset import ImageArrays, ImageSet


class MixedBatches:
    """Mixed batches of image sets that fit into memory, without end, and without augmentation unless asked for.

    Args:
        real: the real training set.
        synthetic: the synthetic set; None trains on real images alone.
        global_batch_size: images per batch, over all workers.
        real_batch_share: share of each batch that is real; the usual choice is `real_weight`.
        seed: of the orders.
        rank: position of this worker.
        world_size: number of workers.
        augmentation: random crops and flips.

    Raises:
        BatchError: a batch cannot be composed so, or the sets differ in picture size, or image sets in their classes.
        ConfigError: `real_batch_share` is out of range.
    """

    def __init__(
        self,
        real: ImageSet | ImageArrays,
        synthetic: ImageSet | ImageArrays | None,
        *,
        global_batch_size: int,
        real_batch_share: float,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        if isinstance(real, ImageSet) and isinstance(synthetic, ImageSet):
            for label, (name, other) in enumerate(
                itertools.zip_longest(real.info.class_names, synthetic.info.class_names)
            ):
                if name != other:
                    raise BatchError(
                        f"class {label} is {name!r} in {real} and {other!r} in {synthetic}; "
                        "give a synthetic set with the same classes in the same order."
                    )
        self._feed = MemoryFeed(
            Sources(
                real=real.read() if isinstance(real, ImageSet) else real,
                synthetic=synthetic.read() if isinstance(synthetic, ImageSet) else synthetic,
            ),
            global_batch_size=global_batch_size,
            real_batch_share=real_batch_share,
            augmentation=augmentation or Augmentation(),
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    @property
    def composition(self) -> Composition:
        """Of the global batch."""
        return self._feed.composition

    def batch(self, step: int) -> MixedBatch:
        """This worker's part of batch `step`, counted from 0; the same whenever it is asked for."""
        return self._feed.batch(step)

    def __iter__(self) -> Iterator[MixedBatch]:
        return map(self.batch, itertools.count())
