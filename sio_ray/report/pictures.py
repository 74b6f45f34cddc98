"""Pack pictures into sprites: one PNG data URI per row of the page instead of an image tag per picture."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sio_ray.imageset.pictures import UInt8Array

#: Pictures side by side; more go on further lines of the sprite.
COLUMNS = 10
#: A page with more classes than this shows those of the lowest agreement, and says so.
MAX_CLASSES = 24
#: Larger pictures are reduced to this, so that the page stays small enough to send.
_MAX_SIDE_PX = 64


@dataclass(frozen=True)
class Sprite:
    """Pictures in one PNG with transparent gaps.

    Attributes:
        uri: the PNG as a data URI.
        width_px: of the PNG.
        height_px: of the PNG.
        num_columns: pictures side by side.
        num_pictures: in all.
        pixelated: the pictures are small, so enlarge them without smoothing.
    """

    uri: str
    width_px: int
    height_px: int
    num_columns: int
    num_pictures: int
    pixelated: bool


def make_sprite(pictures: UInt8Array | None) -> Sprite | None:
    """Lay pictures out in lines of `COLUMNS`.

    Args:
        pictures: (K, C, H, W) uint8, C is 1 or 3.

    Returns:
        None if there is no picture.
    """
    if pictures is None or len(pictures) == 0:
        return None
    pictures = _reduce(pictures)
    count, channels, height, width = pictures.shape
    columns = min(count, COLUMNS)
    lines = math.ceil(count / columns)
    gap = max(1, round(width / 16))
    canvas = np.zeros((lines * (height + gap) - gap, columns * (width + gap) - gap, channels + 1), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        cell = canvas[top : top + height, left : left + width]
        cell[..., :channels] = picture.transpose(1, 2, 0)
        cell[..., channels] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas, mode=None).save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Sprite(uri, canvas.shape[1], canvas.shape[0], columns, count, pixelated=max(height, width) < _MAX_SIDE_PX)


def choose_classes(agreement: Sequence[float | None]) -> list[int]:
    """All labels, or the `MAX_CLASSES` of the lowest agreement where there are more, in their order.

    Args:
        agreement: of each class; None, where it is not known, comes last.
    """
    if len(agreement) <= MAX_CLASSES:
        return list(range(len(agreement)))
    worst_first = sorted(range(len(agreement)), key=lambda i: (agreement[i] is None, agreement[i] or 0.0))
    return sorted(worst_first[:MAX_CLASSES])


def _reduce(pictures: UInt8Array) -> UInt8Array:
    height, width = pictures.shape[2:]
    if max(height, width) <= _MAX_SIDE_PX:
        return pictures
    scale = _MAX_SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Channel by channel, since Pillow has no mode for (H, W, 1).
    reduced = [
        [np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.LANCZOS)) for channel in picture]
        for picture in pictures
    ]
    return np.array(reduced, dtype=np.uint8)
