"""Hashes of pictures: equal exactly where pixels and shape are."""

from __future__ import annotations

import hashlib

import numpy as np

from sio_ray.imageset.content_hash import content_hashes


def test_they_are_blake2b_of_shape_and_pixels():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 5, 4), dtype=np.uint8)
    hashes = content_hashes(images)
    assert hashes.dtype == np.int64
    for image, found in zip(images, hashes, strict=True):
        data = b"".join(size.to_bytes(8, "little") for size in (3, 5, 4)) + image.tobytes()
        expected = hashlib.blake2b(data, digest_size=8).digest()
        assert int(found) == int.from_bytes(expected, "little", signed=True)


def test_one_pixel_or_another_shape_makes_another_hash():
    images = np.random.default_rng(1).integers(0, 256, (50, 1, 6, 6), dtype=np.uint8)
    images[7] = images[3]
    changed = images.copy()
    changed[:, 0, 5, 5] ^= 1
    first, second = content_hashes(images), content_hashes(changed)
    assert first[7] == first[3]
    assert len(set(first)) == 49
    assert not set(first) & set(second)
    assert not set(first) & set(content_hashes(images.reshape(50, 1, 4, 9)))
    assert not set(content_hashes(np.zeros((1, 1, 2, 8), np.uint8))) & set(
        content_hashes(np.zeros((1, 2, 1, 8), np.uint8))
    )


def test_they_do_not_depend_on_the_neighbours_or_the_layout_in_memory():
    images = np.random.default_rng(2).integers(0, 256, (9, 3, 4, 4), dtype=np.uint8)
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(content_hashes(turned), content_hashes(images))
    np.testing.assert_array_equal(content_hashes(images[4:6]), content_hashes(images)[4:6])
    assert content_hashes(images[:0]).shape == (0,)
