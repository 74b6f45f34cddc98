"""Far-OOD letters: bright on dark like digits, drawn from the fonts that matplotlib ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sio_ray.datasets.canvas import FloatArray, blend, shrink, supersampling, to_bytes
from sio_ray.datasets.source import SourceSet
from sio_ray.errors import ImageSetError

#: Letters that nobody reads as a digit, not even as a sloppy or mirrored one at 8 px. Left out are those read as
#: 0 (C D O Q U a c e o u), 1 (I J L f i j l r), 2 (Z z), 3 (B), 4 (Y t y), 5 (S s), 6 (G b), 7 (T), 8 (B a), 9 (g q).
LETTERS = "AEFHKMNPRVWXdhkmnpvwx"

#: Faces (file names without suffix) of each font family.
FONT_FAMILIES: dict[str, tuple[str, ...]] = {
    "DejaVuSans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "DejaVuSansMono": (
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
    ),
    "DejaVuSerif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "STIXGeneral": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    "ComputerModern": ("cmr10", "cmb10", "cmss10", "cmtt10"),
}

TEST_FAMILIES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif")
VAL_FAMILIES = ("STIXGeneral", "ComputerModern")

_GLYPH_SIZE = 160


def draw_letters(
    count: int, height_px: int, width_px: int, channels: int, rng: np.random.Generator, *, families: Sequence[str]
) -> SourceSet:
    """Draw letters that fill the picture as digits do, with a little jitter of scale and place.

    Args:
        count: pictures to draw; faces and letters come in equal shares.
        height_px: height of each picture.
        width_px: width of each picture.
        channels: 1 (white on black) or 3 (a bright colour on a dark one).
        rng: decides face, letter, jitter and colour.
        families: keys of `FONT_FAMILIES`.

    Raises:
        ImageSetError: matplotlib's font files are not where it says.
    """
    pool = [(face, letter) for family in families for face in FONT_FAMILIES[family] for letter in LETTERS]
    rounds = [rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))]
    choices = [pool[index] for index in np.concatenate(rounds)[:count]]
    glyphs = {choice: _glyph(*choice) for choice in set(choices)}
    images = np.empty((count, channels, height_px, width_px), dtype=np.uint8)
    for row, choice in enumerate(choices):
        stroke = _place(glyphs[choice], height_px, width_px, rng)
        if channels == 1:
            images[row] = to_bytes(stroke)
        else:
            images[row] = to_bytes(blend(stroke, rng.uniform(0, 0.25, 3), rng.uniform(0.6, 1, 3)))
    return SourceSet.of_ood(images, [f"{face}/{letter}/{row:06d}" for row, (face, letter) in enumerate(choices)])


def _glyph(face: str, letter: str) -> Image.Image:
    """One letter, large, white on black, cropped to its ink."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    try:
        font = ImageFont.truetype(path, _GLYPH_SIZE)
    except OSError as error:
        raise ImageSetError(f"font {path} cannot be read ({error}); install matplotlib again.") from error
    picture = Image.new("L", (3 * _GLYPH_SIZE, 3 * _GLYPH_SIZE))
    ImageDraw.Draw(picture).text((_GLYPH_SIZE, _GLYPH_SIZE), letter, fill=255, font=font)
    ink = picture.getbbox()
    assert ink is not None, f"{face} draws nothing for {letter!r}"
    return picture.crop(ink)


def _place(glyph: Image.Image, height_px: int, width_px: int, rng: np.random.Generator) -> FloatArray:
    """Scale a glyph to fill the picture and average it down; (H, W) in [0, 1]."""
    factor = supersampling(height_px, width_px)
    height, width = height_px * factor, width_px * factor
    scale = rng.uniform(0.88, 1.0) * min(height / glyph.height, width / glyph.width)
    stretch = rng.uniform(0.9, 1.0)
    size = (max(1, round(glyph.width * scale * stretch)), max(1, round(glyph.height * scale)))
    slack = np.array([width - size[0], height - size[1]])
    # Off the middle by at most 4% of the picture, and never over its border.
    shift = rng.uniform(-1, 1, 2) * np.minimum(slack / 2, 0.04 * np.array([width, height]))
    left, top = np.rint(slack / 2 + shift).astype(int)
    canvas = Image.new("L", (width, height))
    canvas.paste(glyph.resize(size, Image.Resampling.BILINEAR), (int(left), int(top)))
    stroke = shrink(np.asarray(canvas, dtype=np.float64), factor)
    # A thin stroke averages down to grey; every digit reaches full white, and so does every letter.
    return np.asarray(stroke / stroke.max())
