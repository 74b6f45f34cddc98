"""What an import reads: rows of foreign pictures, brought to one shape, with a bound on what is decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydantic import ValidationError

from sio_ray.errors import ImageSetError
from sio_ray.imageset.foreign_pictures import bombs_are_errors, decoding, in_colours, open_picture
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.imageset.schema import ImageSetInfo
from sio_ray.imageset.writer import Batch, check_counts, class_counts

_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Source:
    """Pictures that can be read by their position.

    Attributes:
        info: constants of the set that they make.
        num_images: N.
        read: gives the rows [start, stop).
    """

    info: ImageSetInfo
    num_images: int
    read: Callable[[int, int], Batch]


@dataclass(frozen=True)
class PictureShape:
    """How foreign pictures are brought to one shape.

    Attributes:
        height_px: of every picture.
        width_px: of every picture.
        channels: 1 (grey) or 3 (RGB).
        resized: pictures of another size are resized and cut; else they are refused.
        converted: pictures of other colours are converted; else they are refused.
    """

    height_px: int
    width_px: int
    channels: int
    resized: bool
    converted: bool

    @classmethod
    def of(cls, first: Image.Image, size_px: int | None, channels: int | None) -> PictureShape:
        """Take what is not given from the first picture."""
        upright = ImageOps.exif_transpose(first)
        return cls(
            height_px=size_px or upright.height,
            width_px=size_px or upright.width,
            channels=channels or (1 if first.mode in _GREY_MODES else 3),
            resized=size_px is not None,
            converted=channels is not None,
        )

    def fit(self, picture: Image.Image, where: str) -> UInt8Array:
        """Turn upright, bring to grey or RGB, scale the shorter side (bicubic, antialiased) and cut the middle.

        Args:
            picture: as it was opened; this decodes it.
            where: what to call it in an error.

        Returns:
            (C, H, W) uint8.

        Raises:
            ImageSetError: it has other colours or another size than the first, and no option says what to do.
        """
        is_grey = picture.mode in _GREY_MODES
        if not self.converted and is_grey != (self.channels == 1):
            kinds = ("grey", "in colour") if is_grey else ("in colour", "grey")
            raise ImageSetError(f"{where} is {kinds[0]}, the first picture is {kinds[1]}; give --grey or --rgb.")
        if picture.mode in ("I", "F"):
            raise ImageSetError(f"{where} has 32-bit pixels; bring it to 8 bits first.")
        upright = in_colours(ImageOps.exif_transpose(picture), "L" if self.channels == 1 else "RGB")
        size = (self.width_px, self.height_px)
        if upright.size != size:
            if not self.resized:
                raise ImageSetError(
                    f"{where} is {upright.width}x{upright.height} px, the first picture is {size[0]}x{size[1]}; "
                    f"give the size that all shall have, such as --size {min(size)}."
                )
            upright = ImageOps.fit(upright, size, Image.Resampling.BICUBIC)
        pixels = np.asarray(upright, dtype=np.uint8)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


def picture_files_source(
    paths: Sequence[Path],
    names: Sequence[str],
    labels: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    provenance: dict[str, str],
    size_px: int | None,
    channels: int | None,
) -> Source:
    """A source of picture files; they are read by as many threads as there are cores.

    Args:
        paths: (N,) the files.
        names: (N,) what the set shall call them.
        labels: (N,) int64.
        class_names: empty for an OOD set.
        provenance: of the set.
        size_px: side of the square that all pictures are brought to; the first picture's size if not given.
        channels: 1 or 3; the first picture's if not given.
    """
    with bombs_are_errors(), decoding(str(paths[0])), open_picture(paths[0]) as first:
        shape = PictureShape.of(first, size_px, channels)

    def read_one(path: Path) -> UInt8Array:
        with decoding(str(path)), open_picture(path) as picture:
            return shape.fit(picture, f"picture {path}")

    def read(start: int, stop: int) -> Batch:
        with bombs_are_errors(), ThreadPoolExecutor(os.cpu_count()) as pool:
            images = np.stack(list(pool.map(read_one, paths[start:stop])))
        return Batch(images, labels[start:stop], names[start:stop])

    return Source(set_info(shape, class_names, provenance), len(paths), read)


def set_info(shape: PictureShape, class_names: tuple[str, ...], provenance: dict[str, str]) -> ImageSetInfo:
    """Constants of a set of pictures of this shape."""
    return checked_info(
        class_names=class_names,
        height_px=shape.height_px,
        width_px=shape.width_px,
        channels=shape.channels,
        provenance=provenance,
    )


def checked_info(**constants: Any) -> ImageSetInfo:
    """Constants of a set that others decide.

    Raises:
        ImageSetError: no set may have such.
    """
    try:
        return ImageSetInfo(**constants)
    except ValidationError as error:
        first = error.errors()[0]
        raise ImageSetError(
            f"{'.'.join(map(str, first['loc'])) or 'size'} of the set cannot be taken from the source "
            f"({first['msg']}); bring the pictures to a usable size first."
        ) from None


def name_classes(where: str, labels: npt.NDArray[np.int64], class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the classes that labels speak of: those given, or their numbers; none for an OOD set.

    Raises:
        ImageSetError: labels mix -1 with classes, do not fit the names, or a class has no image.
    """
    if len(labels) == 0:
        raise ImageSetError(f"{where} holds no image; give one that does.")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest == highest == -1:
        if class_names:
            raise ImageSetError(f"{where} has only labels -1 (an OOD set), so no classes; leave out --class-names.")
        return ()
    if lowest < 0:
        raise ImageSetError(
            f"{where} must have labels that are all -1 (an OOD set) or all classes from 0, got {lowest}..{highest}; "
            "import the two kinds as two sets."
        )
    distinct = np.unique(labels)
    if class_names is None and len(distinct) <= highest:
        gap = int(np.flatnonzero(distinct != np.arange(len(distinct)))[0])
        raise ImageSetError(f"{where} has labels up to {highest} but none is {gap}; number the classes without gaps.")
    names = class_names or tuple(map(str, range(highest + 1)))
    if highest >= len(names):
        raise ImageSetError(f"{where} has label {highest}, but there are {len(names)} class names; give one for each.")
    info = ImageSetInfo(class_names=names, height_px=1, width_px=1, channels=1)
    check_counts(where, info, class_counts(labels, info))
    return names
