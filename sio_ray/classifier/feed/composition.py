"""What a batch is made of: how many images of each source, and which of them each worker takes."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from sio_ray.errors import BatchError


@dataclass(frozen=True)
class Parts:
    """One worker's images of a global batch, by where they stand among those of their source."""

    real: slice
    synthetic: slice
    outliers: slice

    @property
    def num_images(self) -> int:
        """Real and synthetic images of the part."""
        return int(self.real.stop - self.real.start + self.synthetic.stop - self.synthetic.start)


@dataclass(frozen=True)
class Composition:
    """How many images of each source a global batch holds.

    Attributes:
        num_real: real images.
        num_synthetic: synthetic images; they stand behind the real ones.
        num_outliers: pictures of no class that an algorithm trains on besides; not counted as images of the batch.
    """

    num_real: int
    num_synthetic: int
    num_outliers: int = 0

    @property
    def batch_size(self) -> int:
        """Images of the batch, real and synthetic."""
        return self.num_real + self.num_synthetic

    def of_rank(self, rank: int, world_size: int) -> Parts:
        """What worker `rank` takes of the global batch.

        Each source is dealt out as evenly as possible. What is left of the real images goes to the first workers and
        what is left of the synthetic ones to the last, so batches differ by one image at the most.
        """

        def first(count: int) -> slice:
            each, left = divmod(count, world_size)
            return slice(each * rank + min(rank, left), each * (rank + 1) + min(rank + 1, left))

        def last(count: int) -> slice:
            each, left = divmod(count, world_size)
            full = world_size - left
            return slice(each * rank + max(0, rank - full), each * (rank + 1) + max(0, rank + 1 - full))

        return Parts(real=first(self.num_real), synthetic=last(self.num_synthetic), outliers=first(self.num_outliers))


def compose(global_batch_size: int, real_batch_share: float, num_outliers: int = 0) -> Composition:
    """Round a share to whole images by the largest remainder; a tie goes to the real ones.

    Raises:
        BatchError: the batch is too small to hold both sources.
    """

    def num_real(batch_size: int) -> int:
        # The product is rounded first: 0.29 * 50 is 14.499... in binary, and the tie would be missed.
        return int(np.floor(round(batch_size * real_batch_share, 9) + 0.5))

    if 0 < real_batch_share < 1 and not 0 < num_real(global_batch_size) < global_batch_size:
        # By bisection, as a share of 1e-12 needs a batch that a count from 1 would not reach.
        enough = 1 + bisect.bisect_left(range(1, 2**60), True, key=lambda size: 0 < num_real(size) < size)
        raise BatchError(
            f"a batch of {global_batch_size} cannot hold both sources at real_batch_share {real_batch_share}; "
            f"take a batch of at least {enough}."
        )
    real = num_real(global_batch_size)
    return Composition(real, global_batch_size - real, num_outliers)
