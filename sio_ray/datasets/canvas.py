"""Pixel arithmetic that the drawn sets share: sample finely, average down, colour, round to bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sio_ray.imageset.pictures import UInt8Array

FloatArray = npt.NDArray[np.float64]


def supersampling(height_px: int, width_px: int) -> int:
    """Samples per pixel and axis; the smaller the picture, the more each pixel has to say."""
    size_px = max(height_px, width_px)
    return 8 if size_px <= 16 else 4 if size_px <= 64 else 2


def shrink(values: FloatArray, factor: int) -> FloatArray:
    """Average blocks of `factor` x `factor` samples: (H * factor, W * factor) to (H, W)."""
    height, width = values.shape[0] // factor, values.shape[1] // factor
    return np.asarray(values.reshape(height, factor, width, factor).mean(axis=(1, 3)))


def to_bytes(values: FloatArray) -> UInt8Array:
    """Round values in [0, 1] to 0..255; what lies outside is clipped."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def blend(values: FloatArray, dark: FloatArray, bright: FloatArray) -> FloatArray:
    """Colour a grey picture: (H, W) in [0, 1] between two (C,) colours in [0, 1] gives (C, H, W)."""
    return np.asarray(dark[:, None, None] + (bright - dark)[:, None, None] * values[None])
