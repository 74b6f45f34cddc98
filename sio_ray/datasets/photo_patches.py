"""Far-OOD photo patches: random crops, small and large, of the two photos that scikit-learn ships."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from sio_ray.datasets.source import SourceSet
from sio_ray.imageset.pictures import UInt8Array

TEST_PHOTO = "china.jpg"
VAL_PHOTO = "flower.jpg"

#: A crop whose grey levels vary less than this (standard deviation) is sky or blur, and is cut again.
_MIN_STD = 12.0


def cut_photo_patches(
    count: int, height_px: int, width_px: int, channels: int, rng: np.random.Generator, *, photo: str
) -> SourceSet:
    """Cut random crops, from small to as large as fits, and scale them with antialiasing.

    Args:
        count: patches to cut.
        height_px: height of each patch.
        width_px: width of each patch.
        channels: 1 (grey) or 3 (RGB).
        rng: decides size and place of each crop.
        photo: name of one of scikit-learn's sample images.
    """
    picture = Image.fromarray(load_sample_image(photo)).convert("L" if channels == 1 else "RGB")
    images = np.empty((count, channels, height_px, width_px), dtype=np.uint8)
    paths = []
    for row in range(count):
        place, images[row] = _cut(picture, height_px, width_px, rng)
        paths.append(f"{photo}/{place}")
    return SourceSet.of_ood(images, paths)


def _cut(picture: Image.Image, height_px: int, width_px: int, rng: np.random.Generator) -> tuple[str, UInt8Array]:
    """One crop by its place, such as `x=12,y=40,w=64,h=64`, and its (C, H, W) pixels."""
    largest = min(picture.width / width_px, picture.height / height_px)
    # Down to the pixels of the photo where the target is small; a large target is at most enlarged fourfold.
    smallest = min(1.0, largest / 4)
    while True:  # most crops of either photo pass
        zoom = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
        width, height = max(1, int(width_px * zoom)), max(1, int(height_px * zoom))
        left = int(rng.integers(picture.width - width + 1))
        top = int(rng.integers(picture.height - height + 1))
        box = (left, top, left + width, top + height)
        patch = picture.resize((width_px, height_px), Image.Resampling.BICUBIC, box=box)
        if np.asarray(patch.convert("L")).std() >= _MIN_STD:
            break
    pixels = np.asarray(patch, dtype=np.uint8)
    place = f"x={left},y={top},w={width},h={height}"
    return place, pixels[None] if patch.mode == "L" else pixels.transpose(2, 0, 1)
