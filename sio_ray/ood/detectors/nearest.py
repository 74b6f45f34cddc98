"""The largest inner products of images with a bank of any size: a block of both at a time, one top-k per block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Images and bank rows that meet in one product. The bank is read once per block of images, so that is large.
IMAGES_PER_BLOCK = 8192
BANK_ROWS_PER_BLOCK = 8192

#: Gives rows [start, end) of a bank, (R, D) on the queries' device and of their dtype, and what is added to the
#: products with each, (R,) or a scalar.
BankRows = Callable[[int, int], tuple[Tensor, Tensor]]


def largest_products(queries: Tensor, bank_rows: BankRows, num_rows: int, count: int) -> tuple[Tensor, Tensor]:
    """Search a whole bank for the rows that fit each query best.

    One buffer holds the best so far beside the products with the next block. In float32 it takes 4 B (count + R) bytes,
    the rows of the best and a new top-k of them 36 B count, and a block of the bank 8 R D, with R = 8192.

    Args:
        queries: (B, D).
        bank_rows: see `BankRows`.
        num_rows: N, of the bank.
        count: of products to find, in [1, N].

    Returns:
        (B, count) products of the queries' dtype, largest first, and (B, count) int64 rows of the bank.
    """
    products = queries.new_full((len(queries), count + min(num_rows, BANK_ROWS_PER_BLOCK)), -torch.inf)
    rows = torch.zeros(len(queries), count, dtype=torch.int64, device=queries.device)
    for start in range(0, num_rows, BANK_ROWS_PER_BLOCK):
        end = min(start + BANK_ROWS_PER_BLOCK, num_rows)
        filled = products[:, : count + end - start]
        block, added = bank_rows(start, end)
        torch.addmm(added, queries, block.T, out=filled[:, count:])
        best, columns = filled.topk(count, dim=1)
        rows = torch.where(columns < count, rows.gather(1, columns.clamp(max=count - 1)), columns - count + start)
        products[:, :count] = best
    return products[:, :count], rows
