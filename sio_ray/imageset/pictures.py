"""Pictures to PNG bytes and back, without loss and with a bound on what is decoded."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sio_ray.errors import ImageSetError

UInt8Array = npt.NDArray[np.uint8]


def encode_png(image: UInt8Array) -> bytes:
    """Encode one picture, without loss: a codec's artefacts would tell synthetic from real.

    Args:
        image: (C, H, W) uint8, C is 1 or 3.
    """
    picture = Image.fromarray(image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    # Level 1 costs a few percent of size on small pictures and saves most of the time.
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_picture(data: bytes, shape: tuple[int, int, int], where: str) -> UInt8Array:
    """Decode one picture of known shape.

    Args:
        data: an encoded picture (PNG, or whatever Pillow reads).
        shape: the (C, H, W) that it must have; checked before any pixel is decoded, so a bomb cannot go off.
        where: what to call the picture in an error.

    Returns:
        (C, H, W) uint8.

    Raises:
        ImageSetError: the bytes are no picture, or one of another size.
    """
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if (picture.height, picture.width) != (height, width):
                raise ImageSetError(
                    f"{where} is {picture.width}x{picture.height} px, its set says {width}x{height}; "
                    "all pictures of a set have one size, so write the set again."
                )
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the buffer here, by its address in memory.
        reason = "no known picture format" if isinstance(error, UnidentifiedImageError) else error
        raise ImageSetError(f"{where} cannot be decoded ({reason}); write its set again.") from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
