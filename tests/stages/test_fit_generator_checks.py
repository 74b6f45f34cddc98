"""What a generator cannot be fitted to is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.imageset.pixel_counts import count_pixels
from sio_ray.stages.fit_generator import _sigma_data


def test_pictures_without_any_contrast_are_refused(tmp_path):
    info = ImageSetInfo(class_names=("a",), height_px=4, width_px=4, channels=1)
    images = np.full((3, 1, 4, 4), 7, dtype=np.uint8)
    write_image_set(tmp_path, info, images, np.zeros(3, dtype=np.int64))
    with pytest.raises(ImageSetError) as error:
        _sigma_data(count_pixels(images), ImageSet(tmp_path))
    assert str(error.value) == f"all pixels of {tmp_path} are the same; give a training set with pictures in it."
