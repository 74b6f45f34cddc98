"""IDX, the format of MNIST's files: a header of big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sio_ray.errors import ImageSetError

_UNSIGNED_BYTE = 8


def read_idx(path: Path, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """Read a gzipped file of unsigned bytes.

    Args:
        path: of the file, `*.gz`.
        num_dimensions: 3 for pictures (N, H, W), 1 for labels (N,).

    Raises:
        ImageSetError: it is no such file.

    Source: the description in http://yann.lecun.com/exdb/mnist.
    """
    try:
        with gzip.open(path) as stream:
            data = stream.read()
        kind, found = struct.unpack_from(">xxBB", data)
        if (kind, found) != (_UNSIGNED_BYTE, num_dimensions):
            raise ValueError(f"it holds type {kind} in {found} dimensions, not bytes in {num_dimensions}")
        sizes = struct.unpack_from(f">{found}I", data, 4)
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * found).reshape(sizes)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise ImageSetError(f"{path} is no IDX file ({error}); delete it and fetch it again.") from error
