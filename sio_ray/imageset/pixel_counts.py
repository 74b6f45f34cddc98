"""How often pixels have each level: what means and standard deviations of a set are computed from, exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sio_ray.imageset.pictures import UInt8Array

#: (C, 256) int64: how often each channel has each level. Those of parts add up to those of the whole.
PixelCounts = npt.NDArray[np.int64]

#: Mean and standard deviation per channel, pixels in [0, 1].
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def count_pixels(images: UInt8Array) -> PixelCounts:
    """Count the levels of (N, C, H, W) uint8 pictures; no float copy is made."""
    return np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])])


def statistics_of(counts: PixelCounts) -> Statistics:
    """Mean and standard deviation per channel; a constant channel gets a deviation of one grey level, 1 / 255."""
    levels = np.arange(256) / 255
    means = (counts * levels).sum(1) / counts.sum(1)
    variances = (counts * (levels - means[:, None]) ** 2).sum(1) / counts.sum(1)
    return tuple(means.tolist()), tuple(np.maximum(np.sqrt(variances), 1 / 255).tolist())


def deviation_of(counts: PixelCounts) -> float:
    """The standard deviation of all pixels in [-1, 1], over all channels; 0 where all are the same."""
    # In Python's integers, which do not overflow: N^2 times the variance.
    of_level = counts.sum(0).tolist()
    total, first, second = (sum(count * value**power for value, count in enumerate(of_level)) for power in (0, 1, 2))
    return float((total * second - first**2) ** 0.5 / total / 127.5)
