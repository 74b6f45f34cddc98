"""What is done with drawn pictures whatever drew them: refuse what is no picture, and bring them to the set's shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sio_ray.errors import GenerationError
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pictures import UInt8Array

#: The least share of values strictly between black and white in a picture of a pipeline not ours.
MIN_SHARE_OF_GREYS = 0.005


def to_uint8(pictures: Tensor) -> UInt8Array:
    """(B, C, H, W) in [0, 1], on any device, to uint8."""
    images: UInt8Array = (pictures.float() * 255).round().to(torch.uint8).cpu().numpy()
    return images


def refuse_bad(bad: dict[str, Tensor], labels: npt.NDArray[np.int64], seeds: Sequence[int], remedy: str) -> None:
    """Raise if any picture is bad.

    Args:
        bad: what is wrong, as in "the picture ... {what}", to (B,) bool.
        labels: (B,) of the pictures.
        seeds: one per picture.
        remedy: what to do about it.

    Raises:
        GenerationError: names the label and seed of the first bad picture.
    """
    any_bad = torch.stack(list(bad.values())).any(0)
    if any_bad.any():
        first = int(any_bad.nonzero()[0])
        what = next(what for what, where in bad.items() if where[first])
        raise GenerationError(f"the picture of label {labels[first]}, seed {seeds[first]} {what}; {remedy}.")


def not_finite(pictures: Tensor) -> Tensor:
    """(B,) whether a value is not finite."""
    return ~pictures.isfinite().flatten(1).all(1)


def constant(pictures: Tensor) -> Tensor:
    """(B,) whether all values are equal."""
    return pictures.flatten(1).amax(1) == pictures.flatten(1).amin(1)


def fit_to_set(images: UInt8Array, info: ImageSetInfo) -> UInt8Array:
    """Resize the shorter side, antialiased, cut the centre, and bring to grey or RGB; as it is if it fits already."""
    if images.shape[1:] == info.image_shape:
        return images
    return np.stack([_fit(image, info) for image in images])


def _fit(image: UInt8Array, info: ImageSetInfo) -> UInt8Array:
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    fitted = ImageOps.fit(
        picture.convert("L" if info.channels == 1 else "RGB"),
        (info.width_px, info.height_px),
        Image.Resampling.BICUBIC,
    )
    pixels = np.asarray(fitted)
    return pixels[None] if info.channels == 1 else pixels.transpose(2, 0, 1)
