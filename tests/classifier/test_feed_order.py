"""Orders of passes: each image once, in windows of row groups, at any place of an endless stream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sio_ray.classifier.feed.order import Passes, WindowedOrder, permutation

#: Sizes of shards, of whole and of cut row groups, and the window.
CASES = [([1024, 1024, 300], 512), ([100] * 9, 256), ([256], 10_000), ([5], 1), ([700, 1, 256, 2000], 700)]


def order_of(case, seed: int = 0, name: str = "real") -> WindowedOrder:
    return WindowedOrder(case[0], case[1], name, seed)


@pytest.mark.parametrize("case", CASES)
def test_a_pass_holds_every_image_of_its_size_once_whatever_the_size(case):
    total = sum(case[0])
    for size in {total, total - 1, total // 2, min(total, 257), 1} - {0}:
        assert sorted(order_of(case).of_pass(0, size).tolist()) == list(range(size))


@pytest.mark.parametrize("case", CASES)
def test_a_window_is_made_of_whole_row_groups_of_one_shard_each_and_is_as_large_as_asked(case):
    order, total = order_of(case), sum(case[0])
    ends = np.cumsum(case[0])
    windows = order.windows(0, total)
    for groups in windows:
        for start, stop in groups:
            assert np.searchsorted(ends, start, side="right") == np.searchsorted(ends, stop - 1, side="right")
            assert stop - start <= 256
    assert {len(groups) for groups in windows[:-1]} <= {-(-case[1] // 256)}
    rows = order.of_pass(0, total)
    for index, groups in enumerate(windows):
        within = np.concatenate([np.arange(*group) for group in groups])
        np.testing.assert_array_equal(np.sort(order.shuffled(0, index, groups)), np.sort(within))
    np.testing.assert_array_equal(
        rows, np.concatenate([order.shuffled(0, index, groups) for index, groups in enumerate(windows)])
    )


def test_passes_seeds_and_names_have_orders_of_their_own():
    case = CASES[0]
    orders = [
        order_of(case).of_pass(0, 2348),
        order_of(case).of_pass(1, 2348),
        order_of(case, seed=1).of_pass(0, 2348),
        order_of(case, name="synthetic").of_pass(0, 2348),
    ]
    for one, other in itertools.combinations(orders, 2):
        assert (one != other).mean() > 0.9
    np.testing.assert_array_equal(orders[0], order_of(case).of_pass(0, 2348))


def test_a_window_of_a_set_sorted_by_class_holds_many_classes():
    num_classes, each = 10, 5120
    order = WindowedOrder([4096] * 12 + [2048], 8192, "real", 0)
    labels = order.of_pass(0, num_classes * each)[:8192] // each
    counts = np.bincount(labels, minlength=num_classes)
    assert (counts > 0).sum() >= 9, "32 row groups of 256 come from all over the set"


@pytest.mark.parametrize("make", [lambda: permutation("real", 0), lambda: order_of(([30, 7], 256)).of_pass])
@pytest.mark.parametrize("count", [1, 5, 36, 37, 38, 100])
def test_the_endless_stream_is_one_pass_after_the_other_from_wherever_it_is_taken(make, count):
    stream = Passes(make(), lambda position: 37).take(0, 37 * 8)
    for number, of_pass in enumerate(stream.reshape(8, 37)):
        np.testing.assert_array_equal(of_pass, make()(number, 37))
        assert sorted(of_pass.tolist()) == list(range(37))
    passes = Passes(make(), lambda position: 37)
    for start in (150, 0, 36, 37, 111):
        np.testing.assert_array_equal(passes.take(start, count), stream[start : start + count])


def test_passes_of_changing_size_follow_one_another_without_a_gap():
    asked = []

    def size_at(position: int) -> int:
        asked.append(position)
        return 3 + position // 4

    passes = Passes(permutation("synthetic", 0), size_at)
    assert passes.at(20).start <= 20
    assert asked == [0, 3, 6, 10, 15], "each pass is sized where it begins, and no more of them than needed"
    assert [passes.at(position).size for position in (0, 2, 3, 6, 10, 15)] == [3, 3, 3, 4, 5, 6]
    assert sorted(passes.take(6, 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bounds", [(0, 10), (0, 5000), (1, 300), (777, 1500), (2999, 3000)])
def test_the_windows_between_two_positions_hold_all_of_them_and_no_window_more(case, bounds):
    order, size = order_of(case), min(sum(case[0]), 900)
    passes = Passes(order.of_pass, lambda position: size)
    windows = order.between(passes, *bounds)
    stream = passes.take(0, 2 * size + bounds[1])
    covered = []
    for window in windows:
        groups = order.windows(window.number, window.size)[window.index]
        rows = order.shuffled(window.number, window.index, groups)
        np.testing.assert_array_equal(rows, stream[window.position : window.position + len(rows)])
        assert window.position < bounds[1]
        assert window.position + len(rows) > bounds[0]
        covered += range(window.position, window.position + len(rows))
    assert covered == list(range(covered[0], covered[-1] + 1))
    assert covered[0] <= bounds[0] < bounds[1] <= covered[-1] + 1


def test_every_window_is_shuffled_in_a_way_of_its_own():
    order = WindowedOrder([4 * 256], 256, "real", 0)
    shuffles = [order.shuffled(0, index, [(0, 256)]).tolist() for index in range(4)]
    assert len({tuple(shuffle) for shuffle in shuffles}) == 4
