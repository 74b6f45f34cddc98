"""Splits: a partition, stratified, with no part of any class empty."""

import numpy as np
import pytest

from sio_ray.datasets.split import split_by_class
from sio_ray.errors import ImageSetError
from sio_ray.seeding import numpy_generator


@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.2), (0.01, 0.98, 0.01), (0.2, 0.8)])
@pytest.mark.parametrize("sizes", [(3, 3), (10, 57), (4, 3, 100)])
def test_parts_are_a_stratified_partition(shares, sizes):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    parts = split_by_class(classes, shares, numpy_generator(0, "x"), ["a", "b", "c"][: len(sizes)])
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(classes)))
    for part, share in zip(parts, shares, strict=True):
        counts = np.bincount(classes[part], minlength=len(sizes))
        assert (counts >= 1).all()
        assert (np.abs(counts - share * np.array(sizes)) <= len(shares)).all()
        assert (np.diff(part) > 0).all()


def test_a_class_too_small_for_the_parts_is_named():
    with pytest.raises(ImageSetError) as error:
        split_by_class(np.array([0, 0, 0, 1, 1]), (0.5, 0.3, 0.2), numpy_generator(0, "x"), ["class cat", "class dog"])
    assert str(error.value) == "class dog has too few pictures (2) to be split into 3 parts; add some."


def test_names_and_seeds_give_generators_of_their_own():
    draws = {numpy_generator(seed, name).integers(1 << 60) for seed in (0, 1) for name in ("a", "b", "ab")}
    assert len(draws) == 6
    assert numpy_generator(3, "a").integers(1 << 60) == numpy_generator(3, "a").integers(1 << 60)
