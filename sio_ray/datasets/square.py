"""Brings pictures of any size and colours to one small square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sio_ray.imageset.foreign_pictures import decoding, in_colours, open_picture
from sio_ray.imageset.pictures import UInt8Array


def read_square(path: Path, size_px: int, channels: int) -> UInt8Array:
    """Decode a file, turn it upright and bring it to a square; (C, H, W) uint8.

    Call it under `bombs_are_errors`, which holds for the whole process and so is set around threads, not in them.

    Raises:
        ImageSetError: it does not decode, or has too many pixels.
    """
    with decoding(str(path)), open_picture(path) as picture:
        return to_square(ImageOps.exif_transpose(picture), size_px, channels)


def to_square(picture: Image.Image, size_px: int, channels: int) -> UInt8Array:
    """Bring to grey or RGB, scale the shorter side (bilinear, antialiased) and cut the middle; (C, H, W) uint8."""
    colours = in_colours(picture, "L" if channels == 1 else "RGB")
    side = min(colours.size)
    if colours.size != (size_px, size_px):
        left, top = (colours.width - side) / 2, (colours.height - side) / 2
        # Cutting within the resize is exact to a fraction of a pixel, and skips what would be cut away.
        colours = colours.resize(
            (size_px, size_px), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=4.0
        )
    pixels = np.asarray(colours, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def to_squares(images: UInt8Array, size_px: int, channels: int) -> UInt8Array:
    """The same for pictures in memory, (N, C, H, W) uint8 with C 1 or 3."""
    squares = np.empty((len(images), channels, size_px, size_px), dtype=np.uint8)
    for row, image in enumerate(images):
        squares[row] = to_square(
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), size_px, channels
        )
    return squares
