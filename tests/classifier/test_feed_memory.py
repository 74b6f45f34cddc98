"""The feed from memory: augmented batches of every source, for any number of workers, and a pool that grows."""

from __future__ import annotations

import pytest
import torch
from feed_samples import CASES, arrays, ids
from torch import Tensor

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import Composition, MemoryFeed, Sources, compose
from sio_ray.errors import BatchError

CROP_AND_FLIP = Augmentation(crop_padding_px=2, horizontal_flip=True)


def memory_feed(case, augmentation=Augmentation(), **changes) -> MemoryFeed:  # noqa: B008 (frozen)
    """A feed with outliers and mixing pictures besides."""
    num_real, num_synthetic, size, share = case
    sources = Sources(
        arrays(num_real, 0), arrays(num_synthetic, 255) if num_synthetic else None, arrays(11, 1), arrays(13, 2)
    )
    settings = {"global_batch_size": size, "real_batch_share": share, "num_outliers": 7, "seed": 3}
    return MemoryFeed(sources, augmentation=augmentation, **{**settings, **changes})


def put_together(parts: list[MixedBatch], composition: Composition) -> dict[str, Tensor]:
    """The global batch that the workers' parts make up."""
    order = torch.cat([part.positions for part in parts]).argsort()
    assert sorted(torch.cat([part.positions for part in parts]).tolist()) == list(range(composition.batch_size))
    names = ("images", "labels", "is_synthetic", "mixing")
    whole = {name: torch.cat([getattr(part, name) for part in parts])[order] for name in names}
    return {**whole, "outliers": torch.cat([part.outliers for part in parts])}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_memory_feed_gives_the_same_augmented_global_batches_to_any_number_of_workers(case, world_size):
    whole = memory_feed(case, CROP_AND_FLIP)
    workers = [memory_feed(case, CROP_AND_FLIP, rank=rank, world_size=world_size) for rank in range(world_size)]
    composition = Composition(compose(*case[2:]).num_real, compose(*case[2:]).num_synthetic, 7)
    for step in (5, 0, 1, 2):
        together = put_together([worker.batch(step) for worker in workers], composition)
        expected = whole.batch(step)
        for name, value in together.items():
            assert torch.equal(value, getattr(expected, name)), name
        assert together["is_synthetic"].sum() == composition.num_synthetic
        assert len(together["outliers"]) == 7
        assert len(together["mixing"]) == composition.batch_size
    assert whole.composition == composition
    assert whole.wait_s > 0


@pytest.mark.parametrize("case", CASES)
def test_every_source_of_the_memory_feed_is_passed_through_evenly(case):
    feed = memory_feed(case)
    batches = [feed.batch(step) for step in range(40)]
    for pictures, size in (
        ([batch.images[~batch.is_synthetic] for batch in batches], case[0]),
        ([batch.images[batch.is_synthetic] for batch in batches], case[1]),
        ([batch.outliers for batch in batches], 11),
        ([batch.mixing for batch in batches], 13),
    ):
        stream = ids(torch.cat(pictures))
        for start in range(0, len(stream) - size, max(1, size)):
            assert sorted(stream[start : start + size]) == list(range(size))
    feed.close()


@pytest.mark.parametrize("position", ["images", "mixing", "outliers"])
def test_every_kind_of_picture_is_augmented_with_draws_of_its_own(position):
    plain, augmented = (
        getattr(memory_feed(CASES[1], how).batch(4), position) for how in (Augmentation(), CROP_AND_FLIP)
    )
    draws = CROP_AND_FLIP.draw((1, 4, 4), len(plain), 3, 4, position)
    assert torch.equal(CROP_AND_FLIP.apply((plain * 255).round().byte(), draws).float() / 255, augmented)


def test_read_only_arrays_are_fed_without_a_warning_and_stay_as_they_are():
    source = arrays(30, 0)
    for array in (source.images, source.labels, source.image_ids):
        array.flags.writeable = False
    feed = MemoryFeed(Sources(source), global_batch_size=8, real_batch_share=1.0, augmentation=CROP_AND_FLIP, seed=0)
    assert feed.batch(0).images.shape == (8, 1, 4, 4)


@pytest.mark.parametrize("source", ["outliers", "mixing"])
def test_further_sets_of_another_size_are_refused(source):
    with pytest.raises(
        BatchError, match=r"real pictures are of shape \(1, 4, 4\), \w+ ones of \(1, 6, 6\); bring them"
    ):
        MemoryFeed(
            Sources(arrays(9, 0), **{source: arrays(9, 0, (1, 6, 6))}),
            global_batch_size=4,
            real_batch_share=1.0,
            augmentation=Augmentation(),
            seed=0,
        )


def test_outliers_that_are_asked_for_but_missing_are_named():
    with pytest.raises(BatchError) as error:
        MemoryFeed(
            Sources(arrays(9, 0)),
            global_batch_size=4,
            real_batch_share=1.0,
            num_outliers=8,
            augmentation=Augmentation(),
            seed=0,
        )
    assert str(error.value) == (
        "a batch of 4 at real_batch_share 1.0 needs 8 outliers, but there is no outlier set; "
        "give one, or change num_outliers."
    )


def test_fewer_outliers_than_workers_leave_some_without():
    feed = memory_feed(CASES[0], CROP_AND_FLIP, num_outliers=1, rank=1, world_size=2)
    assert feed.batch(0).outliers.shape == (0, 1, 4, 4)


class TestRamp:
    """A synthetic pool that grows: 2 of 6 per step are synthetic, passes begin at steps 0, 2, 5 and 9."""

    CASE = (50, 30, 6, 2 / 3)

    @staticmethod
    def pool_size(step: int) -> int:
        return min(4 + step, 30)

    def test_a_pass_goes_over_the_images_of_the_lowest_ids_that_are_in_use_when_it_begins(self):
        feed = memory_feed(self.CASE, pool_size=self.pool_size)
        stream = ids(torch.cat([(batch := feed.batch(step)).images[batch.is_synthetic] for step in range(20)]))
        start = 0
        for size in (4, 6, 9, 13):  # those of steps 0, 2, 5 and 9, whose second image begins the fourth pass
            assert sorted(stream[start : start + size]) == list(range(size))
            start += size

    def test_any_step_may_be_asked_for_first(self):
        in_turn = memory_feed(self.CASE, pool_size=self.pool_size)
        expected = [in_turn.batch(step) for step in range(20)]
        at_once = memory_feed(self.CASE, pool_size=self.pool_size)
        for step in (19, 3, 11):
            assert torch.equal(at_once.batch(step).images, expected[step].images)

    def test_a_constant_pool_is_a_smaller_set(self):
        ramped, small = memory_feed(self.CASE, pool_size=lambda step: 9), memory_feed((50, 9, 6, 2 / 3))
        assert all(torch.equal(ramped.batch(step).images, small.batch(step).images) for step in range(20))

    @pytest.mark.parametrize("pool", [0, 31])
    def test_a_pool_that_cannot_be_is_named_with_its_step(self, pool):
        feed = memory_feed(self.CASE, pool_size=lambda step: 4 if step < 4 else pool)
        feed.batch(3)
        with pytest.raises(BatchError) as error:
            feed.batch(4)
        assert str(error.value) == (
            f"step 4 asks for {pool} synthetic images of 30; "
            "let the ratio's ramp start above 0, and end at most at what was drawn."
        )
