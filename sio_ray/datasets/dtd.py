"""Textures as far-OOD: all 5,640 pictures of the Describable Textures Dataset (Cimpoi et al., arXiv:1311.3618)."""

from __future__ import annotations

from pathlib import Path

from sio_ray.datasets.folders import complete
from sio_ray.datasets.published import PublishedFile, extracted
from sio_ray.datasets.source import FileSet, PictureSet

#: Address and checksum are torchvision's.
FILE = PublishedFile(
    "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1"
)

_NUM_PICTURES = 5640


def load_dtd(root: Path, size_px: int, channels: int, *, download: bool) -> PictureSet:
    """Find `root/dtd/dtd/images/<texture>/*.jpg`, where torchvision keeps them.

    Raises:
        ImageSetError: they are missing, or not all there.
        ResourceError: they cannot be downloaded.
    """
    folder = extracted(FILE, root / "dtd", "dtd", download=download) / "images"
    return FileSet.of_ood(root, complete(root, folder, _NUM_PICTURES), size_px, channels)
