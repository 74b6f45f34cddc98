"""Tiny ImageNet: 200 classes at 64 px; its training set for outlier exposure, its validation set as near-OOD."""

from __future__ import annotations

from pathlib import Path

from sio_ray.datasets.folders import complete
from sio_ray.datasets.published import PublishedFile, extracted
from sio_ray.datasets.source import FileSet, PictureSet

FILE = PublishedFile("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")

_NUM_PICTURES = {"train": 100_000, "val": 10_000}


def load_tiny_imagenet(root: Path, part: str, size_px: int, channels: int, *, download: bool) -> PictureSet:
    """Find `root/tiny-imagenet-200/train` or `.../val`.

    OpenOOD takes 7,793 of the validation pictures as near-OOD, without classes that CIFAR has, and others for outlier
    exposure; the source `openood` reads its lists.

    Args:
        root: folder of the archive, or of what it holds.
        part: `train` or `val`.
        size_px: side of the square that every picture is brought to.
        channels: 1 or 3.
        download: fetch it if it is missing.

    Raises:
        ImageSetError: they are missing, or not all there.
        ResourceError: they cannot be downloaded.
    """
    folder = extracted(FILE, root, "tiny-imagenet-200", download=download) / part
    return FileSet.of_ood(root, complete(root, folder, _NUM_PICTURES[part]), size_px, channels)
