"""What is computed from counts of levels is what NumPy computes from the pixels."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.imageset.pixel_counts import count_pixels, deviation_of, statistics_of


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys(channels):
    images = np.random.default_rng(0).integers(0, 200, (17, channels, 5, 6), dtype=np.uint8)
    images[:, 0] //= 3
    parts = count_pixels(images[:5]) + count_pixels(images[5:])
    np.testing.assert_array_equal(parts, count_pixels(images))
    mean, std = statistics_of(parts)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)
    assert deviation_of(parts) == pytest.approx((images.astype(np.float64) / 127.5 - 1).std(), rel=1e-14)


def test_a_constant_channel_has_a_deviation_of_one_level():
    images = np.full((3, 2, 4, 4), 51, dtype=np.uint8)
    images[0, 1] = 0
    mean, std = statistics_of(count_pixels(images))
    assert mean[0] == pytest.approx(0.2)
    assert std[0] == 1 / 255


def test_pictures_without_any_contrast_have_no_deviation():
    assert deviation_of(count_pixels(np.full((3, 2, 4, 4), 7, dtype=np.uint8))) == 0
