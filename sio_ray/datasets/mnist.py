"""MNIST as far-OOD: all 70,000 handwritten digits (LeCun et al., 1998), as OpenOOD has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sio_ray.datasets.idx import read_idx
from sio_ray.datasets.published import PublishedFile, find
from sio_ray.datasets.source import PictureSet, SourceSet
from sio_ray.datasets.square import to_squares

_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"

#: Addresses and checksums are torchvision's.
FILES = {
    "train": PublishedFile(f"{_URL}/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "test": PublishedFile(f"{_URL}/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
}


def load_mnist(root: Path, size_px: int, channels: int, *, download: bool) -> PictureSet:
    """Read `root/MNIST/raw/*-images-idx3-ubyte.gz`, where torchvision keeps them.

    Raises:
        ImageSetError: a file is missing or another.
        ResourceError: it cannot be downloaded.
    """
    parts, paths = [], []
    for name, file in FILES.items():
        images = read_idx(find(file, root / "MNIST" / "raw", download=download), 3)[:, None]
        parts.append(to_squares(images, size_px, channels))
        paths += [f"mnist/{name}/{row:05d}" for row in range(len(images))]
    return SourceSet.of_ood(np.concatenate(parts), paths)
