"""Fixtures of the classifier tests: scikit-learn's digits as image arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sio_ray.classifier.model import Architecture
from sio_ray.imageset import ImageArrays
from sio_ray.imageset.pixel_counts import count_pixels, statistics_of

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> ImageArrays:
    """All 1,797 digits, in a fixed random order."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = (pixels.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8)
    return ImageArrays(images[order], labels[order].astype(np.int64), np.arange(len(labels)))


@pytest.fixture(scope="session")
def architecture(digits: ImageArrays) -> Architecture:
    mean, std = statistics_of(count_pixels(digits.images))
    return Architecture(
        network="small_cnn",
        width=8,
        class_names=tuple("0123456789"),
        image_shape=(1, 8, 8),
        mean=mean,
        std=std,
    )
