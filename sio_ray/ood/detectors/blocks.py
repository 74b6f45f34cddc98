"""Work on the rows of large arrays block by block, in float64 on the device, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

#: Numbers of the widest array that are on the device at one time: 32 MiB of float64.
_NUMBERS_PER_BLOCK = 2**22


def blocks(*arrays: Tensor, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each array, floating ones as float64; the arrays themselves stay where and as they are."""
    num_rows = max(1, _NUMBERS_PER_BLOCK // max(array[0].numel() for array in arrays))
    for rows in zip(*(array.split(num_rows) for array in arrays), strict=True):
        yield tuple(part.to(device, torch.float64 if part.is_floating_point() else part.dtype) for part in rows)


def by_rows(function: Callable[..., Tensor], *arrays: Tensor, device: torch.device) -> Tensor:
    """What a function makes of each block of rows, one below the other, on the CPU."""
    return torch.cat([function(*rows).cpu() for rows in blocks(*arrays, device=device)])


def mean_row(array: Tensor, device: torch.device) -> Tensor:
    """The mean of (N, D) rows, (D,) float64 on the device."""
    sums = torch.zeros(array.shape[1], dtype=torch.float64, device=device)
    for (rows,) in blocks(array, device=device):
        sums += rows.sum(dim=0)
    return sums / len(array)
