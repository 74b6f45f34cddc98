"""What every sampler is: labels and seeds in, uint8 pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from sio_ray.imageset.pictures import UInt8Array

if TYPE_CHECKING:
    import torch


class Sampler(Protocol):
    """Anything that draws pictures of asked classes from asked seeds."""

    @property
    def device_name(self) -> str:
        """`cpu`, or the GPU's name."""

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """Draw (B, C, H, W) uint8 for (B,) labels and seeds.

        Raises:
            GenerationError: a picture is no picture; its label and seed are named.
            torch.OutOfMemoryError: the batch does not fit the GPU.
        """


def device_name(device: str) -> str:
    """`cpu`, or the GPU's name."""
    import torch  # here and below, as a sampler that does without need not wait for it

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image: its noise depends on no batch mate and on no device."""
    import torch

    return [torch.Generator().manual_seed(seed) for seed in seeds]
