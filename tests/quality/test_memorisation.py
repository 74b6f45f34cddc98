"""Distances to the nearest training picture against brute force, and copies that must be found."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.quality import memorisation as module
from sio_ray.quality.memorisation import (
    NearestSearch,
    compare_distances,
    memorisation,
    nearest_distance,
    num_compared,
    sampled_memorisation,
)

RNG = np.random.default_rng(0)


def pictures(count: int, shape: tuple[int, ...] = (3, 6, 5)) -> np.ndarray:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("pictures_per_block", [0.5, 7, 1024])
def test_distances_are_those_of_brute_force_however_the_work_is_cut(monkeypatch, pictures_per_block):
    images, bank = pictures(40), pictures(60)
    monkeypatch.setattr(module, "_VALUES_PER_BLOCK", int(pictures_per_block * bank[0].size))
    difference = (images[:, None].astype(np.float64) - bank[None]) / 255
    distances = np.sqrt((difference**2).mean(axis=(2, 3, 4)))
    np.testing.assert_allclose(nearest_distance(images, bank), distances.min(axis=1), rtol=1e-12)
    search = NearestSearch(images)
    for part in (bank[:13], bank[13:14], bank[14:]):
        search.add(part)
    np.testing.assert_allclose(search.distances, distances.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(search.positions, distances.argmin(axis=1))


def test_the_first_of_equal_training_pictures_is_named_and_one_not_yet_searched_is_infinitely_far():
    bank = pictures(9)
    search = NearestSearch(bank[[4]])
    assert search.distances == [np.inf]
    search.add(bank)
    search.add(bank)
    assert search.positions == [4]


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


def test_copies_of_the_classes_add_up_to_those_of_the_set():
    of_synthetic, of_held_out = RNG.random(100), 0.3 + RNG.random(50)
    labels, held_out_labels = RNG.integers(0, 3, 100), RNG.integers(0, 3, 50)
    whole = compare_distances(of_synthetic, of_held_out, of_held_out.min())
    parts = [
        compare_distances(of_synthetic[labels == c], of_held_out[held_out_labels == c], of_held_out.min())
        for c in range(3)
    ]
    assert sum(part.num_copies for part in parts) == whole.num_copies == (of_synthetic < of_held_out.min()).sum() > 0


def test_the_relative_distance_has_no_value_where_held_out_pictures_are_all_duplicates():
    assert compare_distances(np.ones(3), np.full(3, 2.0), 0).relative_distance == 0.5
    assert compare_distances(np.ones(3), np.zeros(3), 0).relative_distance is None


def written(folder, images: np.ndarray, num_classes: int = 3) -> ImageSet:
    """A set of classes in turn, in shards of 7."""
    names = tuple(map(str, range(num_classes)))
    info = ImageSetInfo(
        class_names=names, height_px=images.shape[2], width_px=images.shape[3], channels=images.shape[1]
    )
    write_image_set(folder, info, images, np.arange(len(images)) % num_classes, images_per_shard=7)
    return ImageSet(folder)


def test_small_sets_are_compared_whole_shard_after_shard(tmp_path, monkeypatch):
    train, held_out, new = pictures(50), pictures(20), pictures(30)
    new[:6] = train[:6]
    sets = [written(tmp_path / name, of_set) for name, of_set in {"s": new, "t": train, "h": held_out}.items()]
    monkeypatch.setattr(ImageSet, "read", read_but(sets[1], ImageSet.read))
    assert sampled_memorisation(*sets) == (memorisation(new, train, held_out), 30)


def read_but(never: ImageSet, read):
    """Refuses to read one set whole."""

    def reads(self, *arguments):
        assert self.folder.uri != never.folder.uri, "the training set does not fit in memory"
        return read(self, *arguments)

    return reads


def test_of_large_sets_as_many_pictures_of_each_class_are_compared(tmp_path, monkeypatch):
    new = np.repeat(np.array([0, 100, 200], np.uint8), 40)[:, None, None, None] + np.zeros((1, 3, 6, 5), np.uint8)
    info = ImageSetInfo(class_names=tuple("abc"), height_px=6, width_px=5, channels=3)
    write_image_set(tmp_path / "s", info, new, np.repeat([0, 1, 2], 40), images_per_shard=7)  # sorted by class
    train, held_out = written(tmp_path / "t", new[[0, 40]], 2), written(tmp_path / "h", pictures(5))
    monkeypatch.setattr(module, "_MOST_COMPARED", 30)
    found, num_synthetic = sampled_memorisation(ImageSet(tmp_path / "s"), train, held_out)
    assert (found.num_copies, num_synthetic) == (20, 30), "a third of them is of the class that has no training picture"


@pytest.mark.parametrize(
    ("num_train", "side", "device", "expected"),
    [(50_000, 32, "cpu", 10_000), (1_281_167, 256, "cpu", 100), (1_281_167, 256, "cuda", 10_000)],
)
def test_the_search_takes_no_longer_than_an_hour_or_so(num_train, side, device, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageSet, "__len__", lambda _: num_train)
    train = written(tmp_path, pictures(4, (3, side, side)))
    assert num_compared(train, device) == expected
