"""Far-OOD noise: some kinds to test on, other kinds to choose on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from sio_ray.datasets.canvas import FloatArray, to_bytes
from sio_ray.datasets.source import SourceSet

Shape = tuple[int, int, int]


def draw_noise(
    count: int, height_px: int, width_px: int, channels: int, rng: np.random.Generator, *, kinds: Sequence[str]
) -> SourceSet:
    """Draw noise pictures, the kinds in turn, channels independent.

    Args:
        count: pictures to draw.
        height_px: height of each picture.
        width_px: width of each picture.
        channels: 1 (grey) or 3 (RGB).
        rng: draws the noise and its parameters.
        kinds: keys of `KINDS`.
    """
    shape = (channels, height_px, width_px)
    names = [kinds[row % len(kinds)] for row in range(count)]
    images = np.empty((count, *shape), dtype=np.uint8)
    for row, name in enumerate(names):
        images[row] = to_bytes(KINDS[name](shape, rng))
    return SourceSet.of_ood(images, [f"noise-{name}/{row:06d}" for row, name in enumerate(names)])


def _uniform(shape: Shape, rng: np.random.Generator) -> FloatArray:
    return rng.random(shape)


def _gaussian(shape: Shape, rng: np.random.Generator) -> FloatArray:
    return rng.normal(rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.35), shape)


def _bernoulli(shape: Shape, rng: np.random.Generator) -> FloatArray:
    return (rng.random(shape) < rng.uniform(0.2, 0.8)).astype(np.float64)


def _smooth(shape: Shape, rng: np.random.Generator) -> FloatArray:
    """White noise under a Gaussian blur: clouds of one size."""
    sigma = rng.uniform(0.06, 0.2) * min(shape[1:])
    return _stretch(gaussian_filter(rng.normal(size=shape), (0, sigma, sigma), mode="wrap"))


def _impulse(shape: Shape, rng: np.random.Generator) -> FloatArray:
    """Salt and pepper, sparse, on flat grey."""
    values = np.full(shape, rng.uniform(0.2, 0.8))
    hit = rng.random(shape) < rng.uniform(0.1, 0.4)
    # One at the least, or a tiny picture may come out flat.
    hit[:, rng.integers(shape[1]), rng.integers(shape[2])] = True
    values[hit] = rng.integers(0, 2, int(hit.sum()))
    return values


def _speckle(shape: Shape, rng: np.random.Generator) -> FloatArray:
    """Multiplicative Gamma noise on flat grey: many dark pixels, a few bright ones."""
    looks = rng.uniform(0.6, 2.0)
    return np.asarray(rng.uniform(0.15, 0.4) * rng.gamma(looks, 1 / looks, shape))


def _pink(shape: Shape, rng: np.random.Generator) -> FloatArray:
    """Noise whose power falls as a power of the frequency: structure of every size at once."""
    vertical, horizontal = np.fft.fftfreq(shape[1])[:, None], np.fft.rfftfreq(shape[2])[None, :]
    frequency = np.hypot(vertical, horizontal)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=shape)) / frequency ** rng.uniform(0.8, 1.6)
    return _stretch(np.fft.irfft2(spectrum, s=shape[1:]))


def _stretch(values: FloatArray) -> FloatArray:
    """Bring each channel to [0, 1]."""
    lowest, highest = values.min(axis=(1, 2), keepdims=True), values.max(axis=(1, 2), keepdims=True)
    return np.asarray((values - lowest) / (highest - lowest + 1e-12))


KINDS: dict[str, Callable[[Shape, np.random.Generator], FloatArray]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "bernoulli": _bernoulli,
    "smooth": _smooth,
    "impulse": _impulse,
    "speckle": _speckle,
    "pink": _pink,
}

TEST_KINDS = ("uniform", "gaussian", "bernoulli", "smooth")
VAL_KINDS = ("impulse", "speckle", "pink")
