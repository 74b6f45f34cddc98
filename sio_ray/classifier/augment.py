"""Random crop and flip of a whole batch at once, drawn for the global batch so that workers do not change it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sio_ray.seeding import torch_generator


def augment(
    images: Tensor,
    positions: Tensor,
    *,
    crop_padding_px: int,
    horizontal_flip: bool,
    batch_size: int,
    seed: tuple[int, int],
) -> Tensor:
    """Crop each picture at a random place after zero padding, and flip half of them.

    Args:
        images: (B, C, H, W) float32.
        positions: (B,) int64, where each picture stands in the global batch.
        crop_padding_px: padding on every side; 0 does not crop.
        horizontal_flip: flip with probability 1/2.
        batch_size: of the global batch.
        seed: of this step; the draw for a position is a function of it alone.

    Returns:
        (B, C, H, W) float32.
    """
    generator = torch_generator("augment", *seed)
    offsets = torch.randint(0, 2 * crop_padding_px + 1, (batch_size, 2), generator=generator)[positions]
    flips = (torch.rand(batch_size, generator=generator) < 0.5)[positions]
    _, _, height, width = images.shape
    device = images.device
    if crop_padding_px:
        padded = F.pad(images, (crop_padding_px,) * 4)
        rows = offsets[:, 0, None] + torch.arange(height)
        columns = offsets[:, 1, None] + torch.arange(width)
        which = torch.arange(len(images))[:, None, None]
        # Advanced indexing around a slice puts the channels last.
        images = padded[which.to(device), :, rows[:, :, None].to(device), columns[:, None, :].to(device)]
        images = images.permute(0, 3, 1, 2)
    if horizontal_flip:
        images = torch.where(flips[:, None, None, None].to(device), images.flip(3), images)
    return images
