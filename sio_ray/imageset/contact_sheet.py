"""Lays pictures out on one sheet: a row per class, with its name at the left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sio_ray.imageset.pictures import UInt8Array

_MARGIN_PX, _FONT_PX, _MAX_NAME_PX = 20, 16, 220
_PAPER, _INK = (255, 255, 255), (32, 32, 36)


def contact_sheet(
    rows: Sequence[tuple[str, UInt8Array]], *, min_side_px: int = 64, max_side_px: int = 160
) -> Image.Image:
    """Draw a sheet; all pictures get one size.

    Args:
        rows: (name, pictures), the pictures (K, C, H, W) uint8 of one size, C is 1 or 3; K may differ and be 0. Where
            all names are empty, no place is left for them.
        min_side_px: smaller pictures are enlarged by the least whole factor that reaches this, without smoothing.
        max_side_px: larger pictures are reduced to this.

    Returns:
        An RGB picture.
    """
    first = next((pictures for _, pictures in rows if len(pictures)), None)
    assert first is not None, "a sheet needs a picture"
    width, height = _cell_size(first.shape[3], first.shape[2], min_side_px, max_side_px)
    gap = max(2, round(max(width, height) / 16))
    font = ImageFont.load_default(size=_FONT_PX)
    names = [_shorten(name, font) for name, _ in rows]
    left = _MARGIN_PX
    if any(names):
        left += round(max(font.getlength(name) for name in names)) + _MARGIN_PX
    columns = max(len(pictures) for _, pictures in rows)
    step_x, step_y = width + gap, max(height, _FONT_PX) + gap
    size = (left + columns * step_x - gap + _MARGIN_PX, 2 * _MARGIN_PX + len(rows) * step_y - gap)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (name, (_, pictures)) in enumerate(zip(names, rows, strict=True)):
        top = _MARGIN_PX + i * step_y
        draw.text((left - _MARGIN_PX, top + height // 2), name, fill=_INK, font=font, anchor="rm")
        for j, picture in enumerate(pictures):
            sheet.paste(_resize(picture, (width, height)), (left + j * step_x, top))
    return sheet


def _cell_size(width: int, height: int, min_side_px: int, max_side_px: int) -> tuple[int, int]:
    side = max(width, height)
    if side > max_side_px:
        return max(1, round(width * max_side_px / side)), max(1, round(height * max_side_px / side))
    factor = max(1, -(-min_side_px // side))
    return width * factor, height * factor


def _resize(picture: UInt8Array, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
    enlarged = size[0] >= image.width and size[1] >= image.height
    return image.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _shorten(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(name) <= _MAX_NAME_PX:
        return name
    while name and font.getlength(name + "...") > _MAX_NAME_PX:
        name = name[:-1]
    return name + "..."
