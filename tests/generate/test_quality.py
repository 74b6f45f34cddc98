"""Distances to the nearest training picture against brute force, and copies that must be found."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.generate import quality
from sio_ray.generate.quality import memorisation, nearest_distance

RNG = np.random.default_rng(0)


def pictures(count: int, shape: tuple[int, ...] = (3, 6, 5)) -> np.ndarray:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_distances_are_those_of_brute_force(monkeypatch, chunk):
    monkeypatch.setattr(quality, "_CHUNK", chunk)
    images, bank = pictures(40), pictures(60)
    difference = (images[:, None].astype(np.float64) - bank[None]) / 255
    expected = np.sqrt((difference**2).mean(axis=(2, 3, 4))).min(axis=1)
    np.testing.assert_allclose(nearest_distance(images, bank), expected, rtol=1e-12)


def test_black_and_white_are_one_apart_and_a_grey_level_is_a_255th():
    black, white = np.zeros((1, 1, 4, 4), np.uint8), np.full((1, 1, 4, 4), 255, np.uint8)
    assert nearest_distance(black, white).tolist() == [1.0]
    np.testing.assert_allclose(nearest_distance(black + np.uint8(1), black), [1 / 255], rtol=1e-12)


def test_the_distance_of_a_copy_is_exactly_zero_in_a_large_bank():
    bank = pictures(300)
    assert (nearest_distance(bank[::-1].copy(), bank) == 0).all()


def test_exact_copies_are_counted_and_new_pictures_are_not():
    train, held_out, new = pictures(50), pictures(20), pictures(30)
    nearly = train[:4] ^ np.uint8(1)
    far = np.where(new < 128, 255, 0).astype(np.uint8)  # at a corner of the cube, so far from everything
    found = memorisation(np.concatenate([train[5:12], nearly, far]), train, held_out)
    assert found.num_copies == 7 + 4
    assert found.copy_distance == nearest_distance(held_out, train).min()
    assert found.median_distance_held_out == np.median(nearest_distance(held_out, train))
    assert memorisation(far, train, held_out).num_copies == 0
    assert memorisation(train, train, held_out).median_distance_synthetic == 0


def test_exact_copies_are_counted_even_if_a_held_out_picture_is_a_duplicate_of_a_training_picture():
    train, held_out = pictures(50), pictures(20)
    held_out[3] = train[8]
    found = memorisation(np.concatenate([train[:6], pictures(10)]), train, held_out)
    assert found.copy_distance == 0
    assert found.num_copies == 6
