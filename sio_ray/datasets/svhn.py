"""SVHN as far-OOD: the 26,032 test pictures of house numbers (Netzer et al., 2011), as OpenOOD has them."""

from __future__ import annotations

from pathlib import Path

from scipy.io import loadmat

from sio_ray.datasets.published import PublishedFile, find
from sio_ray.datasets.source import PictureSet, SourceSet
from sio_ray.datasets.square import to_squares
from sio_ray.errors import ImageSetError

#: Address and checksum are torchvision's.
FILE = PublishedFile("http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3")


def load_svhn(root: Path, size_px: int, channels: int, *, download: bool) -> PictureSet:
    """Read `root/test_32x32.mat`.

    Raises:
        ImageSetError: the file is missing or another.
        ResourceError: it cannot be downloaded.
    """
    path = find(FILE, root, download=download)
    try:
        images = loadmat(path)["X"].transpose(3, 2, 0, 1)  # (H, W, C, N) to (N, C, H, W)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageSetError(f"{path} cannot be read ({error}); delete it and fetch it again.") from error
    return SourceSet.of_ood(
        to_squares(images, size_px, channels), [f"svhn/test/{row:05d}" for row in range(len(images))]
    )
