"""Seeds as pure functions of what they are for, never of order, worker or time."""

from __future__ import annotations

import hashlib
from operator import index
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: int | str) -> int:
    """A seed that depends on all parts and on nothing else.

    Args:
        parts: what the seed is for, such as a base seed, a name and an image id.

    Returns:
        An integer in [0, 2**63), the same on every machine and in every version.
    """
    # NumPy's scalars print differently from one version to the next, so they become plain ones first.
    parts = tuple(str(part) if isinstance(part, str) else int(index(part)) for part in parts)
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`; CPU noise is the same whatever device it goes to."""
    import torch  # here, as those who only derive seeds need not wait for it

    return torch.Generator().manual_seed(derive_seed(*parts))


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(*parts))
