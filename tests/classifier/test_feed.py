"""Mixed batches: exact composition, each real image once per epoch, the same for any number of workers."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import Composition, MemoryFeed, MixedBatches, MixedBatchSampler, Sources, compose
from sio_ray.errors import BatchError, ConfigError
from sio_ray.imageset import ImageArrays, ImageSet, ImageSetInfo, write_image_set

#: num_real, num_synthetic, global_batch_size, real_batch_share: dividing or not, a short pool, one source alone.
CASES = [(40, 40, 10, 0.8), (37, 23, 10, 0.7), (50, 3, 12, 0.5), (31, 0, 8, 1.0), (5, 29, 6, 0.25), (7, 4, 16, 0.8)]


def sampler_of(case, **kwargs) -> MixedBatchSampler:
    num_real, num_synthetic, size, share = case
    return MixedBatchSampler(num_real, num_synthetic, global_batch_size=size, real_batch_share=share, **kwargs)


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


@pytest.mark.parametrize("case", CASES)
def test_every_batch_of_every_epoch_has_exactly_the_asked_composition(case):
    sampler, composition = sampler_of(case), compose(case[2], case[3])
    for step in range(5 * len(sampler)):
        real, synthetic = sampler.global_indices(step)
        assert (len(real), len(synthetic)) == (composition.num_real, composition.num_synthetic)
        assert ((real >= 0) & (real < case[0])).all()
        assert ((synthetic >= 0) & (synthetic < case[1])).all()


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_every_real_image_is_seen_once_per_epoch_over_all_workers(case, world_size):
    num_epochs, num_real = 4, case[0]
    workers = [sampler_of(case, rank=rank, world_size=world_size) for rank in range(world_size)]
    num_steps = -(-num_epochs * num_real // workers[0].composition.num_real)
    # Within a batch the workers' parts are contiguous, so rank order is the order of the global stream.
    stream = np.concatenate([w.indices(step)[0] for step in range(num_steps) for w in workers])
    epochs = stream[: num_epochs * num_real].reshape(num_epochs, num_real)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(num_real))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == num_epochs, "every epoch has an order of its own"


@pytest.mark.parametrize("case", [case for case in CASES if case[1]])
def test_synthetic_images_are_cycled_so_that_none_is_seen_twice_more_than_another(case):
    sampler = sampler_of(case)
    seen = Counter()
    for step in range(60):
        seen.update(sampler.global_indices(step)[1].tolist())
        counts = [seen[i] for i in range(case[1])]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("case", CASES)
def test_workers_parts_make_up_the_one_worker_batch_and_differ_by_at_most_one_image(case, world_size):
    whole = sampler_of(case)
    workers = [sampler_of(case, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(4):
        parts = [worker.indices(step) for worker in workers]
        for source in (0, 1):
            together = np.concatenate([part[source] for part in parts])
            np.testing.assert_array_equal(together, whole.indices(step)[source])
        sizes = [len(real) + len(synthetic) for real, synthetic in parts]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
    positions = np.concatenate([worker.positions() for worker in workers])
    assert sorted(positions.tolist()) == list(range(case[2]))


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


@pytest.mark.parametrize("case", CASES)
def test_positions_say_where_a_workers_images_stand_in_the_global_batch(case):
    whole = np.concatenate(sampler_of(case).global_indices(2))
    for rank in range(3):
        worker = sampler_of(case, rank=rank, world_size=3)
        np.testing.assert_array_equal(whole[worker.positions()], np.concatenate(worker.indices(2)))


@pytest.mark.parametrize("case", CASES)
def test_random_access_equals_iteration_and_every_pass_goes_on_where_the_last_one_ended(case):
    sampler, other = sampler_of(case, seed=4), sampler_of(case, seed=4)
    iterated = [batch for _ in range(3) for batch in sampler]
    assert len(iterated) == 3 * len(sampler)
    for step in reversed(range(len(iterated))):
        real, synthetic = other.indices(step)
        assert iterated[step] == [*real, *(synthetic + case[0])]
    sampler.set_epoch(1)
    assert list(sampler) == iterated[len(sampler) : 2 * len(sampler)]


def test_same_seed_gives_the_same_batches_and_another_seed_others():
    case = (100, 80, 20, 0.8)
    assert list(sampler_of(case, seed=1)) == list(sampler_of(case, seed=1))
    assert list(sampler_of(case, seed=1)) != list(sampler_of(case, seed=2))
    real, synthetic = sampler_of((50, 50, 100, 0.5), seed=1).global_indices(0)
    assert real.tolist() != synthetic.tolist(), "each source has an order of its own"


@pytest.mark.parametrize("case", CASES)
def test_a_pass_is_one_epoch_of_the_real_set_unless_a_length_is_given(case):
    assert len(sampler_of(case)) == int(np.ceil(case[0] / compose(case[2], case[3]).num_real))
    assert len(sampler_of(case, num_batches=3)) == len(list(sampler_of(case, num_batches=3))) == 3


def test_without_real_images_a_pass_is_one_epoch_of_the_synthetic_set():
    batches = list(sampler_of((0, 12, 4, 0.0)))
    assert sorted(i for batch in batches for i in batch) == list(range(12))


def test_the_sampler_feeds_a_plain_data_loader_over_both_sets():
    real = [(torch.tensor(i), "real") for i in range(21)]
    synthetic = [(torch.tensor(i), "synthetic") for i in range(9)]
    sampler = MixedBatchSampler(21, 9, global_batch_size=10, real_batch_share=0.7)
    loader = DataLoader(ConcatDataset([real, synthetic]), batch_sampler=sampler)
    for _ in range(2):
        seen = Counter()
        for indices, names in loader:
            assert Counter(names) == {"real": 7, "synthetic": 3}
            seen.update(int(i) for i, name in zip(indices, names, strict=True) if name == "real")
        assert seen == dict.fromkeys(range(21), 1)
    assert len(loader) == 3


@pytest.mark.parametrize("share", [80, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused_with_its_value(share):
    with pytest.raises(ConfigError) as error:
        MixedBatchSampler(10, 10, global_batch_size=4, real_batch_share=share)
    assert str(error.value) == f"real_batch_share must be in [0, 1], got {share}; give a share, not a percentage."


@pytest.mark.parametrize(
    ("num_real", "num_synthetic", "message"),
    [
        (10, 0, "needs 2 synthetic images, but there is no synthetic set"),
        (0, 10, "needs 8 real images, but there is no real set"),
    ],
)
def test_a_source_that_is_asked_for_but_missing_is_named(num_real, num_synthetic, message):
    with pytest.raises(BatchError) as error:
        MixedBatchSampler(num_real, num_synthetic, global_batch_size=10, real_batch_share=0.8)
    assert str(error.value) == (
        f"a batch of 10 at real_batch_share 0.8 {message}; give one, or change real_batch_share."
    )


def test_a_batch_smaller_than_the_number_of_workers_is_refused():
    with pytest.raises(BatchError) as error:
        MixedBatchSampler(10, 10, global_batch_size=2, real_batch_share=0.5, world_size=3)
    assert str(error.value) == "a batch of 2 cannot feed 3 workers; take a larger batch."


def arrays(count: int, value: int, shape: tuple[int, int, int] = (1, 4, 4)) -> ImageArrays:
    """Pictures whose first pixel is their id and whose second says where they come from."""
    images = np.zeros((count, *shape), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    images[:, 0, 0, 1] = value
    return ImageArrays(images, np.arange(count) % 3, np.arange(count))


def ids(pictures: Tensor) -> list[int]:
    """The ids that `arrays` wrote into its pictures."""
    return (pictures[:, 0, 0, 0] * 255).round().int().tolist()


def test_batches_hold_the_pictures_labels_and_sources_of_the_samplers_indices():
    batches = MixedBatches(arrays(30, 0), arrays(20, 255), global_batch_size=10, real_batch_share=0.6, seed=2)
    sampler = MixedBatchSampler(30, 20, global_batch_size=10, real_batch_share=0.6, seed=2)
    for step, batch in zip(range(7), batches, strict=False):
        expected = np.concatenate(sampler.global_indices(step))
        assert ids(batch.images) == expected.tolist()
        assert batch.images[:, 0, 0, 1].tolist() == batch.is_synthetic.float().tolist() == [0.0] * 6 + [1.0] * 4
        assert batch.labels.tolist() == (expected % 3).tolist()
        assert batch.positions.tolist() == list(range(10))
        assert batch.images.dtype == torch.float32
        assert torch.equal(batches.batch(step).images, batch.images)
    assert batches.composition == Composition(6, 4)


def test_without_a_synthetic_set_batches_are_all_real():
    batches = MixedBatches(arrays(30, 0), None, global_batch_size=10, real_batch_share=1.0)
    assert not batches.batch(3).is_synthetic.any()
    assert len(batches.batch(3).labels) == 10
    with pytest.raises(BatchError, match=r"needs 2 synthetic images, but there is no synthetic set"):
        MixedBatches(arrays(30, 0), None, global_batch_size=10, real_batch_share=0.8)


def test_image_sets_on_disk_feed_the_same_batches_as_arrays(tmp_path):
    info = ImageSetInfo(class_names=("a", "b", "c"), height_px=4, width_px=4, channels=1)
    sets = []
    for name, value in (("real", 0), ("synthetic", 255)):
        write_image_set(tmp_path / name, info, arrays(12, value).images, arrays(12, value).labels)
        sets.append(ImageSet(tmp_path / name))
    of_sets = MixedBatches(*sets, global_batch_size=6, real_batch_share=0.5)
    of_arrays = MixedBatches(arrays(12, 0), arrays(12, 255), global_batch_size=6, real_batch_share=0.5)
    assert torch.equal(of_sets.batch(1).images, of_arrays.batch(1).images)


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(BatchError) as error:
        MixedBatches(arrays(9, 0), arrays(9, 1, (3, 4, 4)), global_batch_size=4, real_batch_share=0.5)
    assert str(error.value) == (
        "real pictures are of shape (1, 4, 4), synthetic ones of (3, 4, 4); bring them to one size."
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "c", "b"), "class 1 is 'b' in {real} and 'c' in {synthetic}"),
        ((), "class 0 is 'a' in {real} and None in {synthetic}"),
    ],
)
def test_image_sets_of_other_classes_are_refused(tmp_path, names, said):
    info = ImageSetInfo(class_names=("a", "b", "c"), height_px=4, width_px=4, channels=1)
    images, labels = arrays(12, 0).images, arrays(12, 0).labels
    write_image_set(tmp_path / "real", info, images, labels)
    other = info.model_copy(update={"class_names": names})
    write_image_set(tmp_path / "synthetic", other, images, labels if names else labels * 0 - 1)
    with pytest.raises(BatchError) as error:
        MixedBatches(
            ImageSet(tmp_path / "real"), ImageSet(tmp_path / "synthetic"), global_batch_size=4, real_batch_share=0.5
        )
    said = said.format(real=tmp_path / "real", synthetic=tmp_path / "synthetic")
    assert str(error.value) == f"{said}; give a synthetic set with the same classes in the same order."


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
