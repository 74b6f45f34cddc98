"""Mixing pictures for PixMix: attractors of random iterated function systems (IFS), rendered as log-density."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sio_ray.datasets.canvas import FloatArray, to_bytes
from sio_ray.datasets.source import SourceSet

#: Points that walk the attractor at once, per pixel and at the least.
_WALKERS_PER_PIXEL = 8
_MIN_WALKERS = 512
#: Steps before a walker is on the attractor, and steps that are then drawn.
_BURN_IN_STEPS = 12
_DRAWN_STEPS = 8
#: Larger pictures are drawn at this size and enlarged: a point per pixel and more would take seconds for each.
_MAX_DRAWN_PX = 96
#: A system is judged by a thumbnail of this size, for the share of pixels that a fractal fills depends on theirs.
_THUMBNAIL_PX = 8
#: Share of the thumbnail that must be brighter than `_DIM`; below it a fractal is dust, a thread or a mere stroke.
_MIN_FILL = 0.45
_DIM = 0.1
#: Standard deviation of the thumbnail's levels below which a fractal is a flat blotch.
_MIN_STD = 0.15
#: Matrices, shifts and probabilities of the maps of an iterated function system.
_System = tuple[FloatArray, FloatArray, FloatArray]


def draw_fractals(count: int, height_px: int, width_px: int, channels: int, rng: np.random.Generator) -> SourceSet:
    """Draw fractals that fill the picture; RGB ones in a palette of their own.

    Args:
        count: pictures to draw.
        height_px: height of each picture.
        width_px: width of each picture.
        channels: 1 (grey) or 3 (RGB).
        rng: decides the systems, the walks and the palettes.

    Source: PixMix, arXiv:2112.05135, mixes with fractals; how systems are drawn follows arXiv:2110.03091.
    """
    images = np.empty((count, channels, height_px, width_px), dtype=np.uint8)
    shrinking = min(1.0, _MAX_DRAWN_PX / max(height_px, width_px))
    drawn_px = (max(1, round(height_px * shrinking)), max(1, round(width_px * shrinking)))
    for row in range(count):
        density = _enlarged(_density(_good_system(rng), *drawn_px, rng), height_px, width_px)
        images[row] = to_bytes(density[None] if channels == 1 else _colour(density, rng))
    return SourceSet.of_ood(images, [f"fractals/{row:06d}" for row in range(count)])


def _good_system(rng: np.random.Generator) -> _System:
    """Draw systems until one fills its thumbnail."""
    while True:
        system = _random_system(rng)
        thumbnail = _density(system, _THUMBNAIL_PX, _THUMBNAIL_PX, rng)
        if (thumbnail > _DIM).mean() >= _MIN_FILL and thumbnail.std() >= _MIN_STD:
            return system


def _random_system(rng: np.random.Generator) -> _System:
    """Draw a contractive system of two to four affine maps.

    The singular values are scaled so that their weighted sum is where arXiv:2110.03091 (section 3) found attractors
    that are neither dust nor blur.

    Returns:
        (M, 2, 2) matrices, (M, 2) shifts, (M,) probability of each map: about its area, for exactly the area would
        give one flat tone.
    """
    num_maps = int(rng.integers(2, 5))
    target = rng.uniform(0.5 * (5 + num_maps), 0.5 * (6 + num_maps))
    sigma = np.ones((num_maps, 2))
    while sigma.max() > 0.97:
        sigma = np.sort(rng.uniform(0.15, 1, (num_maps, 2)), axis=1)[:, ::-1]
        sigma = sigma * target / (sigma @ np.array([1.0, 2.0])).sum()
    before, after = _rotations(num_maps, rng), _rotations(num_maps, rng)
    matrices = before @ (sigma[:, :, None] * after) * rng.choice([-1.0, 1.0], (num_maps, 1, 2))
    weight = sigma.prod(axis=1) * np.exp(rng.normal(0, 0.5, num_maps))
    return matrices, rng.uniform(-1, 1, (num_maps, 2)), weight / weight.sum()


def _rotations(num_maps: int, rng: np.random.Generator) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi, num_maps)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=-2)


def _density(system: _System, height_px: int, width_px: int, rng: np.random.Generator) -> FloatArray:
    """Log-density of the attractor, (H, W) in [0, 1]."""
    matrices, shifts, probability = system
    num_walkers = max(_MIN_WALKERS, _WALKERS_PER_PIXEL * height_px * width_px)
    walkers = np.zeros((2, num_walkers))
    visited = np.empty((2, _DRAWN_STEPS, num_walkers))
    for step in range(-_BURN_IN_STEPS, _DRAWN_STEPS):
        # Shuffled walkers taken in runs, one run per map: cheaper than a matrix of its own for each walker.
        shuffled, start = walkers[:, rng.permutation(num_walkers)], 0
        walkers = np.empty_like(shuffled)
        for matrix, shift, size in zip(matrices, shifts, rng.multinomial(num_walkers, probability), strict=True):
            x, y = shuffled[:, start : start + size]
            # Written out, for the bits of a BLAS product may depend on its threads.
            for axis in (0, 1):
                walkers[axis, start : start + size] = matrix[axis, 0] * x + matrix[axis, 1] * y + shift[axis]
            start += size
        if step >= 0:
            visited[:, step] = walkers
    points = visited.reshape(2, -1)
    # A few points lie far out; framing by quantiles, of a sample, lets the body fill the picture.
    low, high = np.quantile(points[:, ::7], [0.01, 0.99], axis=1)
    places = (points - low[:, None]) / (high - low + 1e-9)[:, None]
    inside = ((places >= 0) & (places < 1)).all(axis=0)
    columns, rows = (places[:, inside] * np.array([[width_px], [height_px]])).astype(np.int64)
    counts = np.bincount(rows * width_px + columns, minlength=height_px * width_px).reshape(height_px, width_px)
    # Counted in units of a typical pixel, so that the logarithm spreads the tones of the body, not those of its rim.
    density = np.log1p(counts / np.median(counts[counts > 0]))
    return np.asarray(np.clip(density / np.quantile(density, 0.99), 0, 1))


def _enlarged(density: FloatArray, height_px: int, width_px: int) -> FloatArray:
    """Bring a drawing to its final size where that is larger."""
    if density.shape == (height_px, width_px):
        return density
    picture = Image.fromarray(density.astype(np.float32)).resize((width_px, height_px), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(picture, dtype=np.float64), 0, 1)


def _colour(density: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Look densities up in a random palette of five colours, the first one dark; (3, H, W) in [0, 1]."""
    palette = rng.random((5, 3))
    palette[0] *= 0.3
    stops = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(density, stops, palette[:, channel]) for channel in range(3)])
