"""Random crop and flip of a batch of uint8 pictures, drawn for the global batch so that workers do not change it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sio_ray.config import TrainConfig
from sio_ray.errors import ConfigError
from sio_ray.seeding import numpy_generator

Draws = npt.NDArray[np.int64]

#: Of torchvision's RandomResizedCrop: share of the area, width over height, and how often a crop that does not fit is
#: drawn again before the largest one in the centre is taken.
_SCALE, _RATIO, _ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training picture; random, but a function of seed, step and place in the global batch alone.

    Pictures are uint8 before and after, so that every engine and every device gives the same ones. (One exception: GPUs
    resize in floating point, which may round a pixel of `resized_crop` to the neighbouring level.)

    Attributes:
        crop_padding_px: zero padding on every side before a random crop; 0 pads nothing.
        horizontal_flip: flip with probability 1/2.
        resized_crop: crop a random part of 8 to 100 % of the area and of ratio 3:4 to 4:3, and resize it, bilinear with
            antialias; takes the place of the padded crop.
        size_px: side of the square that comes out; the stored height and width if None.
    """

    crop_padding_px: int = 0
    horizontal_flip: bool = False
    resized_crop: bool = False
    size_px: int | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """What a config asks for."""
        return cls(config.crop_padding_px, config.horizontal_flip, config.resized_crop, config.input_px)

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of what comes out for pictures of `shape`.

        Raises:
            ConfigError: larger pictures are asked for than there are.
        """
        if self.size_px is None:
            return shape
        if self.size_px > min(shape[1:]):
            raise ConfigError(
                "train.input_px",
                f"at most the side of the pictures ({min(shape[1:])} px)",
                self.size_px,
                "lower it, or prepare larger pictures",
            )
        return (shape[0], self.size_px, self.size_px)

    def draw(self, shape: tuple[int, int, int], count: int, *seed: int | str) -> Draws:
        """Draw the crops and flips of one global batch.

        Args:
            shape: (C, H, W) of the stored pictures.
            count: pictures of the global batch.
            seed: of the step.

        Returns:
            (count, 5) int64: top, left, height and width of the crop, with padding, and 1 to flip or 0.
        """
        rng = numpy_generator("augment", *seed)
        _, height, width = shape
        _, rows, columns = self.output_shape(shape)
        draws = np.zeros((count, 5), dtype=np.int64)
        if self.resized_crop:
            draws[:, :4] = _resized_boxes(height, width, count, rng)
        else:
            draws[:, 0] = rng.integers(height + 2 * self.crop_padding_px - rows + 1, size=count)
            draws[:, 1] = rng.integers(width + 2 * self.crop_padding_px - columns + 1, size=count)
            draws[:, 2:4] = rows, columns
        if self.horizontal_flip:
            draws[:, 4] = rng.integers(2, size=count)
        return draws

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Do to each picture what was drawn for it.

        Args:
            images: (B, C, H, W) uint8, on any device; left as they are.
            draws: (B, 5) of `draw`.

        Returns:
            (B, C, height, width) uint8, on the same device.
        """
        return self._resize_boxes(images, draws) if self.resized_crop else self._cut_boxes(images, draws)

    def _cut_boxes(self, images: Tensor, draws: Draws) -> Tensor:
        count, channels, height, width = images.shape
        _, rows, columns = self.output_shape((channels, height, width))
        tops, lefts, _, _, flips = draws.T
        # Those to flip go last, so that they are one piece; picking the crops puts all in their places again.
        order = flips.argsort(kind="stable")
        num_kept = count - int(flips.sum())
        places = np.empty_like(order)
        places[order] = np.arange(count)
        images = images.index_select(0, torch.from_numpy(order).to(images.device))
        images[num_kept:] = images[num_kept:].flip(3)
        padded = F.pad(images, (self.crop_padding_px,) * 4).contiguous()
        of_image, of_channel, of_row, _ = padded.stride()
        lefts = np.where(flips, padded.shape[3] - columns - lefts, lefts)
        starts = torch.from_numpy(places * of_image + tops * of_row + lefts)
        # Every crop that there could be, as a view from each byte on: picking from it copies whole rows, 7 times as
        # fast as picking pixel by pixel.
        last = padded.numel() - (channels - 1) * of_channel - (rows - 1) * of_row - columns
        crops = padded.as_strided((max(0, last + 1), channels, rows, columns), (1, of_channel, of_row, 1))
        return crops.index_select(0, starts.to(images.device))

    def _resize_boxes(self, images: Tensor, draws: Draws) -> Tensor:
        from torchvision.transforms.v2 import functional  # here, as it takes a second that other crops need not wait

        channels, height, width = images.shape[1:]
        size = list(self.output_shape((channels, height, width))[1:])
        resized = images.new_empty(len(images), channels, *size)
        # One by one, as every crop has a size of its own.
        for image, (*box, flip), out in zip(images, draws.tolist(), resized, strict=True):
            crop = functional.resized_crop(image, *box, size=size, antialias=True)
            out.copy_(crop.flip(2) if flip else crop)
        return resized


def _resized_boxes(height: int, width: int, count: int, rng: np.random.Generator) -> Draws:
    """Top, left, height and width of random crops, (count, 4), by the rule of torchvision's RandomResizedCrop."""
    areas = height * width * rng.uniform(*_SCALE, (count, _ATTEMPTS))
    ratios = np.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1]), (count, _ATTEMPTS)))
    columns, rows = np.rint(np.sqrt(areas * ratios)).astype(int), np.rint(np.sqrt(areas / ratios)).astype(int)
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    first = (np.arange(count), fits.argmax(1))
    # Where none fits: of the ratios that are allowed, the one nearest to the picture's own.
    none = ~fits.any(1)
    rows = np.where(none, min(height, round(width / _RATIO[0])), rows[first])
    columns = np.where(none, min(width, round(height * _RATIO[1])), columns[first])
    tops = np.where(none, (height - rows) // 2, rng.integers(height - rows + 1))
    lefts = np.where(none, (width - columns) // 2, rng.integers(width - columns + 1))
    return np.stack([tops, lefts, rows, columns], 1)
