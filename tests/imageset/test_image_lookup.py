"""Pictures looked up by id are those of the whole set, and only shards that hold them are opened."""

from __future__ import annotations

import numpy as np
import pytest
from imageset_samples import write_random_set

from sio_ray.errors import ImageSetError
from sio_ray.imageset.files import open_shard
from sio_ray.imageset.lookup import pictures_by_id


@pytest.mark.parametrize("wanted", [[0], [9, 0, 4], [3, 3, 7], list(range(10)), []])
def test_pictures_and_labels_are_those_of_the_whole_set(tmp_path, wanted):
    image_set = write_random_set(tmp_path / "set")
    whole = image_set.read()
    found = pictures_by_id(image_set, wanted)
    assert set(found) == set(wanted)
    for image_id, (picture, label) in found.items():
        assert np.array_equal(picture, whole.images[image_id])
        assert label == whole.labels[image_id]


def test_only_shards_that_hold_the_ids_are_opened(tmp_path):
    image_set = write_random_set(tmp_path / "set")
    first, _, last = image_set.manifest.shards
    (tmp_path / "set" / first.name).unlink()
    (tmp_path / "set" / last.name).unlink()
    assert set(pictures_by_id(image_set, [4, 7])) == {4, 7}
    with pytest.raises(ImageSetError, match=f"{last.name} is missing"):
        pictures_by_id(image_set, [4, 8])


def test_an_unknown_id_is_an_error(tmp_path):
    image_set = write_random_set(tmp_path / "set")
    with pytest.raises(
        ImageSetError, match=r"set must hold image_id 12, got none; .*run the stage that named them again"
    ):
        pictures_by_id(image_set, [3, 12, 40])


def test_row_groups_after_the_first_are_read_at_their_place(tmp_path):
    image_set = write_random_set(tmp_path / "set", count=700, images_per_shard=700, shape=(1, 2, 3))
    whole = image_set.read()
    with open_shard(image_set.folder, image_set.manifest.shards[0].name) as parquet:
        assert parquet.num_row_groups > 1
    for image_id, (picture, _) in pictures_by_id(image_set, [2, 300, 699]).items():
        assert np.array_equal(picture, whole.images[image_id])
