"""Opens pictures that others wrote: bounds that hold on pixels and bytes, one line for what fails, grey or RGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sio_ray.errors import ImageSetError, SioRayError
from sio_ray.reading import reason_of

#: What is decoded, by content and not by the file's name. Pillow knows 40 more; to one of them, EPS, a picture is a
#: program that it hands to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

#: Pixels of one picture; Pillow's own limit, at which by itself it only warns.
MAX_PIXELS = 89_478_485

#: Bytes of an encoded picture: more than twice what so many pixels take without any coding.
MAX_PICTURE_BYTES = 2**29


def open_picture(source: bytes | Path) -> Image.Image:
    """Read the head of a picture; its pixels are decoded when they are asked for. Call it under `decoding`.

    Raises:
        Exception: it is none of `FORMATS`, or too large; Pillow raises of many kinds.
    """
    num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    if num_bytes > MAX_PICTURE_BYTES:
        raise ValueError(f"it has {num_bytes:,} bytes, more than {MAX_PICTURE_BYTES:,}")
    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError:
        # Pillow names the buffer here, by its address in memory.
        raise ValueError("no known picture format") from None
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise ValueError(f"it has {picture.width}x{picture.height} px, more than {MAX_PIXELS:,} in all")
    return picture


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Make Pillow's limit on pixels a limit: by itself it only warns up to twice of it.

    The filter is the process's, so it is set around threads and not in them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Turn whatever Pillow raises into one line that names the picture.

    Raises:
        ImageSetError: the picture does not decode.
    """
    try:
        yield
    except SioRayError:
        raise
    except Exception as error:  # broken bytes make Pillow's decoders raise anything
        raise ImageSetError(f"picture {where} cannot be decoded ({reason_of(error)}); replace or delete it.") from error


def in_colours(picture: Image.Image, mode: str) -> Image.Image:
    """To `L` or `RGB`, whatever the picture is in; what is transparent becomes black."""
    if picture.mode.startswith("I;16"):
        # Pillow would clip 16 bits at 255.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return picture.convert(mode)
