"""Whether synthetic pictures are copies of training pictures: distances to the nearest one, in pixel space."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sio_ray.imageset import ImageSet
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.imageset.sample import sample_pictures

#: Values of the largest array held at once, whatever the sizes of sets and pictures: 128 MiB of float64.
_VALUES_PER_BLOCK = 2**24

#: Pictures of a set that are compared, and multiplications that they may take: an hour of a core or a GPU.
_MOST_COMPARED, _FEWEST_COMPARED = 10_000, 100
_MOST_PRODUCTS = {"cpu": 2e13, "cuda": 5e15}

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training picture, as root mean square per pixel with pixels in [0, 1].

    A generator that copies has many distances near 0, far below those of real pictures it never saw.

    Attributes:
        median_distance_synthetic: over synthetic pictures.
        median_distance_held_out: over real pictures that the generator never saw, the yardstick.
        copy_distance: the smallest distance of a held-out picture; nearer than this counts as a copy.
        num_copies: synthetic pictures nearer than that, or at distance 0.
    """

    median_distance_synthetic: float
    median_distance_held_out: float
    copy_distance: float
    num_copies: int

    @property
    def relative_distance(self) -> float | None:
        """Median of synthetic pictures over that of held-out ones; None where that is 0."""
        return self.median_distance_synthetic / self.median_distance_held_out if self.median_distance_held_out else None


class NearestSearch:
    """Finds the nearest training picture of every picture while the training set goes by, part after part.

    Args:
        images: (N, C, H, W) uint8.
        device: where distances are computed.

    Attributes:
        distances: (N,) float64, root mean square difference per pixel, pixels in [0, 1]; infinite at first.
        positions: (N,) int64, position of the nearest in all parts so far; the first of several.
    """

    def __init__(self, images: UInt8Array, device: str = "cpu") -> None:
        self.distances: Float64Array = np.full(len(images), np.inf)
        self.positions = np.zeros(len(images), dtype=np.int64)
        self._images = images
        self._device = device
        self._num_seen = 0

    def add(self, part: UInt8Array) -> None:
        """Compare with a part of the training set, (M, C, H, W) uint8."""
        num_pixels = int(np.prod(part.shape[1:]))
        rows = max(1, min(4096, _VALUES_PER_BLOCK // num_pixels))
        for start in range(0, len(part), rows):
            bank = self._grey_levels(part[start : start + rows])
            for first in range(0, len(self._images), rows):
                here = slice(first, first + rows)
                distances, positions = torch.cdist(self._grey_levels(self._images[here]), bank).min(1)
                nearest = (distances / (255 * num_pixels**0.5)).cpu().numpy()
                nearer = nearest < self.distances[here]
                self.distances[here][nearer] = nearest[nearer]
                self.positions[here][nearer] = positions.cpu().numpy()[nearer] + self._num_seen
            self._num_seen += len(bank)

    def _grey_levels(self, images: UInt8Array) -> Tensor:
        # Whole numbers, so that the matrix product in cdist is exact: the distance of a copy is 0, not rounding noise.
        return torch.from_numpy(images).to(self._device).flatten(1).to(torch.float64)


def nearest_distance(images: UInt8Array, bank: UInt8Array) -> Float64Array:
    """Distance of each image to its nearest in the bank.

    Args:
        images: (N, C, H, W) uint8.
        bank: (M, C, H, W) uint8, at least one.

    Returns:
        (N,) float64, root mean square difference per pixel, pixels in [0, 1].
    """
    search = NearestSearch(images)
    search.add(bank)
    return search.distances


def num_compared(train: ImageSet, device: str) -> int:
    """How many pictures of any other set are compared with a training set."""
    products = len(train) * float(np.prod(train.info.image_shape))
    return int(min(_MOST_COMPARED, max(_FEWEST_COMPARED, _MOST_PRODUCTS[device] / products)))


def sampled_memorisation(
    synthetic: ImageSet, train: ImageSet, held_out: ImageSet, device: str = "cpu"
) -> tuple[Memorisation, int]:
    """`memorisation` of sets of any size, by as many pictures of all classes as an hour allows.

    The training set goes by shard after shard, and is never in memory whole.

    Args:
        synthetic: what the generator drew.
        train: what it was fitted to.
        held_out: real pictures that it never saw.
        device: where distances are computed.

    Returns:
        What was found, and the number of synthetic pictures that it is about.
    """
    count = num_compared(train, device)
    searches = [NearestSearch(_choose(image_set, count), device) for image_set in (synthetic, held_out)]
    for part in train.shards():
        for search in searches:
            search.add(part.images)
    of_synthetic, of_held_out = (search.distances for search in searches)
    return compare_distances(of_synthetic, of_held_out, float(of_held_out.min())), len(of_synthetic)


def _choose(image_set: ImageSet, count: int) -> UInt8Array:
    """Pictures of a set by chance, as many of each class; all if there are no more."""
    if len(image_set) <= count:
        return image_set.read().images
    num_classes = len(image_set.info.class_names)
    wanted = Counter((np.arange(count) * num_classes // count).tolist())
    return np.concatenate(list(sample_pictures(image_set, wanted, seed=0).values()))


def memorisation(synthetic: UInt8Array, train: UInt8Array, held_out: UInt8Array) -> Memorisation:
    """Compare how near synthetic and held-out real pictures come to the training set.

    Args:
        synthetic: (N, C, H, W) uint8.
        train: (M, C, H, W) uint8, what the generator was fitted to.
        held_out: (K, C, H, W) uint8, real pictures that it never saw.
    """
    of_held_out = nearest_distance(held_out, train)
    return compare_distances(nearest_distance(synthetic, train), of_held_out, float(of_held_out.min()))


def compare_distances(of_synthetic: Float64Array, of_held_out: Float64Array, copy_distance: float) -> Memorisation:
    """Summarise distances to the nearest training picture.

    Args:
        of_synthetic: (N,) float64, N at least 1.
        of_held_out: (K,) float64, K at least 1.
        copy_distance: the smallest distance of any held-out picture; for a class, that of all classes, so that the
            copies of the classes add up to those of the set.
    """
    return Memorisation(
        median_distance_synthetic=float(np.median(of_synthetic)),
        median_distance_held_out=float(np.median(of_held_out)),
        copy_distance=copy_distance,
        # At 0 always: a held-out picture may itself be a duplicate of a training picture.
        num_copies=int(((of_synthetic < copy_distance) | (of_synthetic == 0)).sum()),
    )
