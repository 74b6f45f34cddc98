"""What the tests of feeds share: cases, and pictures that say where they come from."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sio_ray.imageset import ImageArrays

#: num_real, num_synthetic, global_batch_size, real_batch_share: dividing or not, a short pool, one source alone.
CASES = [(40, 40, 10, 0.8), (37, 23, 10, 0.7), (50, 3, 12, 0.5), (31, 0, 8, 1.0), (5, 29, 6, 0.25), (7, 4, 16, 0.8)]


def arrays(count: int, value: int, shape: tuple[int, int, int] = (1, 4, 4)) -> ImageArrays:
    """Pictures whose first pixel is their id and whose second says where they come from."""
    images = np.zeros((count, *shape), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    images[:, 0, 0, 1] = value
    return ImageArrays(images, np.arange(count) % 3, np.arange(count))


def ids(pictures: Tensor) -> list[int]:
    """The ids that `arrays` wrote into its pictures."""
    return (pictures[:, 0, 0, 0] * 255).round().int().tolist()
