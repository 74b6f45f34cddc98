"""The sets that need no data: far-OOD, outlier exposure and mixing pictures, at any size."""

from __future__ import annotations

from sio_ray.datasets.fractals import draw_fractals
from sio_ray.datasets.letters import TEST_FAMILIES, VAL_FAMILIES, draw_letters
from sio_ray.datasets.noise import TEST_KINDS, VAL_KINDS, draw_noise
from sio_ray.datasets.photo_patches import TEST_PHOTO, VAL_PHOTO, cut_photo_patches
from sio_ray.datasets.source import PictureSet, SourceSet
from sio_ray.datasets.textures import draw_textures
from sio_ray.seeding import numpy_generator


def draw_far_ood(
    count: int, height_px: int, width_px: int, channels: int, seed: int
) -> tuple[dict[str, PictureSet], dict[str, PictureSet]]:
    """Draw letters, photo patches and noise.

    Validation and test share no font family, no photo and no kind of noise, so what is chosen on the one is not
    fitted to the other.

    Args:
        count: pictures in each set.
        height_px: height of each picture.
        width_px: width of each picture.
        channels: 1 (grey) or 3 (RGB).
        seed: of all sets; each has a generator of its own.

    Returns:
        The validation sets and the test sets, by name.
    """
    shape = (count, height_px, width_px, channels)
    val: dict[str, PictureSet] = {
        "letters": draw_letters(*shape, numpy_generator(seed, "letters/val"), families=VAL_FAMILIES),
        "photo_patches": cut_photo_patches(*shape, numpy_generator(seed, "photo_patches/val"), photo=VAL_PHOTO),
        "noise": draw_noise(*shape, numpy_generator(seed, "noise/val"), kinds=VAL_KINDS),
    }
    test: dict[str, PictureSet] = {
        "letters": draw_letters(*shape, numpy_generator(seed, "letters/test"), families=TEST_FAMILIES),
        "photo_patches": cut_photo_patches(*shape, numpy_generator(seed, "photo_patches/test"), photo=TEST_PHOTO),
        "noise": draw_noise(*shape, numpy_generator(seed, "noise/test"), kinds=TEST_KINDS),
    }
    return val, test


def draw_outliers(count: int, height_px: int, width_px: int, channels: int, seed: int) -> SourceSet:
    """Draw the outlier-exposure set; the arguments are those of `draw_far_ood`."""
    return draw_textures(count, height_px, width_px, channels, numpy_generator(seed, "textures"))


def draw_mixing(count: int, height_px: int, width_px: int, channels: int, seed: int) -> SourceSet:
    """Draw the mixing set; the arguments are those of `draw_far_ood`."""
    return draw_fractals(count, height_px, width_px, channels, numpy_generator(seed, "fractals"))
