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
        """`cpu` and its instructions, such as `cpu AVX2`, or the GPU's name."""

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """Draw (B, C, H, W) uint8 for (B,) labels and seeds.

        Raises:
            GenerationError: a picture is no picture; its label and seed are named.
            torch.OutOfMemoryError: the batch does not fit the GPU.
        """


def device_name(device: str) -> str:
    """`cpu` and the instructions that torch takes there, such as `cpu AVX2`, or the GPU's name.

    Both say on what else than the plan the last bits depend: AVX2 and AVX512 add up in another order.
    """
    import torch  # here and below, as a sampler that does without need not wait for it

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} {torch.backends.cpu.get_cpu_capability()}"


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image: its noise depends on no batch mate and on no device."""
    import torch

    return [torch.Generator().manual_seed(seed) for seed in seeds]
