"""A sampler that needs no model: noise that depends on the seed alone."""

from __future__ import annotations

import numpy as np


class NoiseSampler:
    """Draws pictures of a set's shape; remembers the sizes of its batches."""

    device_name = "noise"

    def __init__(self, info) -> None:
        self._shape = info.image_shape
        self.batch_sizes: list[int] = []

    def sample(self, labels, seeds):
        self.batch_sizes.append(len(labels))
        pictures = [np.random.default_rng(seed).integers(0, 256, self._shape, dtype=np.uint8) for seed in seeds]
        return np.stack(pictures)
