"""How good a synthetic set is: label agreement, and whether its pictures are copies of training pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sio_ray.imageset.pictures import UInt8Array

#: Rows of the distance matrix held at once.
_CHUNK = 1024


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training picture, as root mean square per pixel with pixels in [0, 1].

    A generator that copies has many distances near 0, far below those of real pictures it never saw.

    Attributes:
        median_distance_synthetic: over synthetic pictures.
        median_distance_held_out: over real pictures of the validation split, the yardstick.
        copy_distance: the smallest distance of a held-out picture; nearer than this counts as a copy.
        num_copies: synthetic pictures nearer than that, or at distance 0.
    """

    median_distance_synthetic: float
    median_distance_held_out: float
    copy_distance: float
    num_copies: int


def nearest_distance(images: UInt8Array, bank: UInt8Array) -> npt.NDArray[np.float64]:
    """Distance of each image to its nearest in the bank.

    Args:
        images: (N, C, H, W) uint8.
        bank: (M, C, H, W) uint8, at least one.

    Returns:
        (N,) float64, root mean square difference per pixel, pixels in [0, 1].
    """
    reference = _grey_levels(bank)
    nearest = [
        torch.cdist(_grey_levels(images[start : start + _CHUNK]), reference).amin(1)
        for start in range(0, len(images), _CHUNK)
    ]
    distances: npt.NDArray[np.float64] = (torch.cat(nearest) / (255 * reference.shape[1] ** 0.5)).numpy()
    return distances


def memorisation(synthetic: UInt8Array, train: UInt8Array, held_out: UInt8Array) -> Memorisation:
    """Compare how near synthetic and held-out real pictures come to the training set.

    Args:
        synthetic: (N, C, H, W) uint8.
        train: (M, C, H, W) uint8, what the generator was fitted to.
        held_out: (K, C, H, W) uint8, real pictures that it never saw.
    """
    of_synthetic, of_held_out = nearest_distance(synthetic, train), nearest_distance(held_out, train)
    copy_distance = float(of_held_out.min())
    return Memorisation(
        median_distance_synthetic=float(np.median(of_synthetic)),
        median_distance_held_out=float(np.median(of_held_out)),
        copy_distance=copy_distance,
        # At 0 always: a held-out picture may itself be a duplicate of a training picture.
        num_copies=int(((of_synthetic < copy_distance) | (of_synthetic == 0)).sum()),
    )


def _grey_levels(images: UInt8Array) -> Tensor:
    # Whole numbers, so that the matrix product in cdist is exact: the distance of a copy is 0, not rounding noise.
    return torch.from_numpy(images).flatten(1).to(torch.float64)
