"""The plan is pure: what an image is depends on its id and the base seed, on no size and no order."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.generate.plan import Plan

SIZES = [(1, 1, 1, 1), (10, 3, 4, 3), (12, 3, 4, 4), (17, 5, 20, 8), (23, 4, 1, 2), (100, 7, 33, 10), (5, 8, 2, 64)]


def plan_of(num_images: int, num_classes: int, images_per_shard: int, sampler_batch_size: int, seed: int = 3) -> Plan:
    return Plan(num_images, num_classes, images_per_shard, sampler_batch_size, seed)


def rows(plan: Plan) -> dict[int, tuple[int, int]]:
    """Image id to label and seed."""
    shards = [plan.shard(k) for k in range(plan.num_shards)]
    drawn = [row for shard in shards for row in zip(shard.image_ids, shard.labels, shard.seeds, strict=True)]
    ids = [int(image_id) for image_id, _, _ in drawn]
    assert ids == list(range(plan.num_images)), "every id once, in the order of the shards"
    return {int(image_id): (int(label), seed) for image_id, label, seed in drawn}


@pytest.mark.parametrize("sizes", SIZES)
def test_every_image_id_is_in_exactly_one_shard(sizes):
    plan = plan_of(*sizes)
    rows(plan)
    assert all(len(plan.shard(k).labels) == plan.images_per_shard for k in range(plan.num_shards - 1))
    assert len({plan.shard(k).name for k in range(plan.num_shards)}) == plan.num_shards


@pytest.mark.parametrize("sizes", SIZES)
def test_label_and_seed_of_an_image_do_not_depend_on_shards_batches_or_the_size_of_the_set(sizes):
    num_images, num_classes, images_per_shard, sampler_batch_size = sizes
    expected = rows(plan_of(*sizes))
    assert rows(plan_of(num_images, num_classes, images_per_shard + 1, sampler_batch_size + 3)) == expected
    larger = rows(plan_of(num_images + 9, num_classes, images_per_shard, sampler_batch_size))
    assert {image_id: larger[image_id] for image_id in expected} == expected


def test_asking_twice_or_in_another_order_gives_the_same_shard():
    plan, again = plan_of(23, 4, 5, 2), plan_of(23, 4, 5, 2)
    for shard_id in (4, 0, 4, 2):
        one, other = plan.shard(shard_id), again.shard(shard_id)
        assert (one.name, one.seeds) == (other.name, other.seeds)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_seeds_are_all_different_and_so_are_those_of_another_base_seed():
    seeds = [seed for base in (0, 1, 2) for _, seed in rows(plan_of(400, 4, 64, 8, base)).values()]
    assert len(set(seeds)) == 1200
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("sizes", SIZES)
def test_every_prefix_is_balanced_and_the_class_counts_are_right(sizes):
    plan = plan_of(*sizes)
    labels = np.array([label for label, _ in rows(plan).values()])
    for length in range(1, len(labels) + 1):
        counts = np.bincount(labels[:length], minlength=plan.num_classes)
        assert counts.max() - counts.min() <= 1
    assert plan.class_counts() == tuple(np.bincount(labels, minlength=plan.num_classes))


@pytest.mark.parametrize("sizes", SIZES)
def test_every_call_of_the_sampler_has_the_full_batch_and_the_wanted_images_are_the_shards(sizes):
    plan = plan_of(*sizes)
    for shard_id in range(plan.num_shards):
        shard = plan.shard(shard_id)
        labels, seeds = [], []
        for batch_labels, batch_seeds, count in shard.batches():
            assert len(batch_labels) == len(batch_seeds) == plan.sampler_batch_size
            assert 1 <= count <= plan.sampler_batch_size
            assert set(batch_labels[count:]) <= {batch_labels[count - 1]}
            assert set(batch_seeds[count:]) <= {batch_seeds[count - 1]}
            labels += batch_labels[:count].tolist()
            seeds += batch_seeds[:count]
        assert labels == shard.labels.tolist()
        assert tuple(seeds) == shard.seeds
