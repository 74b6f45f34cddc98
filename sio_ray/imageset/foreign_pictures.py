"""Decodes pictures that sio_ray did not write: a bound on pixels that holds, one line for what fails, grey or RGB."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from sio_ray.errors import ImageSetError


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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageSetError(f"picture {where} cannot be decoded ({reason}); replace or delete it.") from error


def in_colours(picture: Image.Image, mode: str) -> Image.Image:
    """To `L` or `RGB`, whatever the picture is in; what is transparent becomes black."""
    if picture.mode.startswith("I;16"):
        # Pillow would clip 16 bits at 255.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return picture.convert(mode)
