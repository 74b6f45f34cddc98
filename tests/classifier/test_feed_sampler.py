"""Mixed batches: exact composition, each real image once per epoch, the same for any number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from feed_samples import CASES
from torch.utils.data import ConcatDataset, DataLoader

from sio_ray.classifier.feed import MixedBatchSampler, compose
from sio_ray.errors import BatchError, ConfigError


def sampler_of(case, **kwargs) -> MixedBatchSampler:
    num_real, num_synthetic, size, share = case
    return MixedBatchSampler(num_real, num_synthetic, global_batch_size=size, real_batch_share=share, **kwargs)


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
