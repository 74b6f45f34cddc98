"""Places365 as far-OOD: the 36,500 validation pictures of scenes at 256 px (Zhou et al., TPAMI 2017).

OpenOOD takes 35,195 of them, without classes that CIFAR has; those are in its list `test_places365.txt`, which the
source `openood` reads.
"""

from __future__ import annotations

from pathlib import Path

from sio_ray.datasets.folders import complete
from sio_ray.datasets.published import PublishedFile, extracted
from sio_ray.datasets.source import FileSet, PictureSet

#: Address and checksum are torchvision's.
FILE = PublishedFile("http://data.csail.mit.edu/places/places365/val_256.tar", "e27b17d8d44f4af9a78502beb927f808")

_NUM_PICTURES = 36_500


def load_places365(root: Path, size_px: int, channels: int, *, download: bool) -> PictureSet:
    """Find `root/val_256/*.jpg`, where torchvision keeps them.

    Raises:
        ImageSetError: they are missing, or not all there.
        ResourceError: they cannot be downloaded.
    """
    folder = extracted(FILE, root, "val_256", download=download)
    return FileSet.of_ood(root, complete(root, folder, _NUM_PICTURES), size_px, channels)
