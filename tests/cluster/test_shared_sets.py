"""Sets in the object store: as they are on disk, without copies, and measured without the driver seeing a pixel."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.feed import MemoryFeed, Sources
from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.imageset.pixel_counts import count_pixels
from sio_ray.training import shared_sets
from sio_ray.training.shared_sets import decoded_bytes, fetch, pixel_counts_of, share


@pytest.fixture
def image_set(tmp_path) -> ImageSet:
    """Ten pictures in three shards."""
    info = ImageSetInfo(class_names=("a", "b", "c"), height_px=5, width_px=7, channels=3)
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 5, 7), dtype=np.uint8)
    write_image_set(tmp_path / "set", info, images, np.arange(10) % 3, images_per_shard=4)
    return ImageSet(tmp_path / "set")


@pytest.mark.parametrize("limit", [None, 0, 3, 4, 9, 10, 99])
def test_what_is_fetched_is_what_is_read(image_set, limit):
    fetched, read = fetch(share({"set": (image_set.uri, limit)})["set"]), image_set.read(limit)
    for name in ("images", "labels", "image_ids"):
        np.testing.assert_array_equal(getattr(fetched, name), getattr(read, name))
    assert decoded_bytes(image_set, limit) == read.images.nbytes


def test_fetched_arrays_are_the_object_stores_own_and_feed_without_a_warning(image_set):
    shared = share({"real": (image_set.uri, None)})
    first, second = fetch(shared["real"]), fetch(shared["real"])
    assert not first.images.flags.owndata
    assert not first.images.flags.writeable
    assert first.images.ctypes.data == second.images.ctypes.data
    feed = MemoryFeed(
        Sources(first), global_batch_size=4, real_batch_share=1.0, augmentation=Augmentation(1, True), seed=0
    )
    assert feed.batch(0).images.shape == (4, 3, 5, 7)


def test_one_set_under_two_names_is_decoded_once(image_set):
    shared = share({"a": (image_set.uri, None), "b": (image_set.uri, None), "c": (image_set.uri, 5)})
    assert shared["a"] == shared["b"] != shared["c"]


def test_pixels_are_counted_over_the_whole_set(image_set):
    np.testing.assert_array_equal(pixel_counts_of(image_set.uri), count_pixels(image_set.read().images))


def test_a_corrupt_shard_is_named_by_whoever_asked(image_set, tmp_path):
    shard = tmp_path / "set" / image_set.manifest.shards[1].name
    shard.write_bytes(shard.read_bytes()[:-9])
    for ask in (lambda: share({"set": (image_set.uri, None)}), lambda: pixel_counts_of(image_set.uri)):
        with pytest.raises(ImageSetError) as error:
            ask()
        assert type(error.value) is ImageSetError
        assert str(error.value) == (
            f"{shard} is corrupt (its SHA-256 is not the manifest's); "
            "delete the shard and manifest.json, and run the stage that wrote the set again."
        )


def test_sets_that_the_object_store_cannot_hold_are_refused_before_anything_is_decoded(image_set, monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 4, "object_store_memory": size}} for size in (9e9, 5.5e9)]
    nodes += [{"Alive": False, "Resources": {}}, {"Alive": True, "Resources": {"object_store_memory": 1}}]
    monkeypatch.setattr(shared_sets.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(shared_sets, "_share_one", lambda *_: "shared")
    monkeypatch.setattr(shared_sets, "decoded_bytes", lambda image_set, limit: 10**9 * limit)
    assert share({"a": (image_set.uri, 1), "b": (image_set.uri, 2)}) == {"a": "shared", "b": "shared"}
    monkeypatch.setattr(shared_sets, "_share_one", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ResourceError) as error:
        share({"a": (image_set.uri, 2), "b": (image_set.uri, 2), "c": (image_set.uri, 3)})
    assert str(error.value) == (
        "decoding the sets into memory takes 8.00 GB of Ray's object store on a node, the smallest has 5.50 GB; "
        "set train.feed=stream, or start Ray with a larger object_store_memory."
    )
