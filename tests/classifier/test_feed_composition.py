"""How many images of each source are in a batch, and in a worker's part of it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sio_ray.classifier.feed import Composition, compose
from sio_ray.errors import BatchError


@pytest.mark.parametrize("size", [2, 3, 7, 10, 50, 64, 100, 128])
@pytest.mark.parametrize("share", ["0.5", "0.29", "0.57", "0.7", "0.8", "0.9", "0.35", "0.55"])
def test_shares_are_rounded_by_the_largest_remainder_and_a_tie_goes_to_the_real_ones(size, share):
    wanted = size * Fraction(share)
    num_real = int(wanted)
    num_real += wanted - num_real >= Fraction(1, 2)
    if num_real == size:
        with pytest.raises(BatchError):
            compose(size, float(share))
    else:
        assert compose(size, float(share)) == Composition(num_real, size - num_real)


@pytest.mark.parametrize(
    ("size", "share", "num_real"), [(10, 0.7, 7), (100, 0.29, 29), (128, 0.8, 102), (9, 1, 9), (9, 0, 0)]
)
def test_shares_that_binary_fractions_miss_are_exact(size, share, num_real):
    assert compose(size, share) == Composition(num_real, size - num_real)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.999])
def test_a_batch_too_small_for_both_sources_names_the_smallest_that_is_large_enough(share):
    def advised(size: int) -> int:
        with pytest.raises(BatchError) as error:
            compose(size, share)
        head, _, tail = str(error.value).partition("; take a batch of at least ")
        assert head == f"a batch of {size} cannot hold both sources at real_batch_share {share}"
        return int(tail.removesuffix("."))

    smallest = advised(1)
    assert {advised(size) for size in range(1, smallest)} == {smallest}
    for size in range(smallest, 2000, 7):
        both = compose(size, share)
        assert both.num_real > 0
        assert both.num_synthetic > 0


@pytest.mark.parametrize("share", [1e-12, 1e-300, 1 - 1e-12])
def test_a_share_of_almost_nothing_is_an_error_and_not_an_endless_search(share):
    with pytest.raises(BatchError, match=r"take a batch of at least \d{12,}\.$"):
        compose(128, share)


@pytest.mark.parametrize("world_size", range(1, 9))
def test_any_composition_is_dealt_out_evenly_in_total_and_by_source(world_size):
    for num_real in range(20):
        for num_synthetic in range(20):
            composition = Composition(num_real, num_synthetic)
            slices = [composition.of_rank(rank, world_size) for rank in range(world_size)]
            for source, count in (("real", num_real), ("synthetic", num_synthetic)):
                dealt = [i for part in slices for i in range(count)[getattr(part, source)]]
                assert dealt == list(range(count))
                sizes = [len(range(count)[getattr(part, source)]) for part in slices]
                assert max(sizes) - min(sizes) <= 1
            totals = [part.num_images for part in slices]
            assert max(totals) - min(totals) <= 1
