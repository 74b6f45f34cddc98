"""The plan is pure: what an image is depends on its id and the base seed, on no size and no order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sio_ray.generate.plan import Plan, class_weights_like

#: Number of images, class weights, images per shard, sampler batch.
SIZES = [
    (1, (1,), 1, 1),
    (10, (1, 1, 1), 4, 3),
    (12, (1, 1, 1), 4, 4),
    (17, (3, 1, 2), 20, 8),
    (23, (1, 1, 1, 1), 1, 2),
    (100, (5, 1, 1, 9, 2), 33, 10),
    (5, (1,) * 8, 2, 64),
    (60, (10, 20, 30), 7, 5),
]


def plan_of(num_images, class_weights, images_per_shard, sampler_batch_size, seed=3):
    return Plan(num_images, class_weights, images_per_shard, sampler_batch_size, seed)


def rows(plan: Plan) -> dict[int, tuple[int, int]]:
    """Image id to label and seed, gathered batch by batch as an actor does."""
    drawn: dict[int, tuple[int, int]] = {}
    for shard_id in range(plan.num_shards):
        ids = []
        for batch in plan.batches(plan.places(shard_id)):
            wanted = slice(batch.num_wanted)
            ids += batch.image_ids[wanted].tolist()
            of_images = zip(batch.labels[wanted].tolist(), batch.seeds[wanted], strict=True)
            drawn |= dict(zip(batch.image_ids[wanted].tolist(), of_images, strict=True))
        assert ids == plan.places(shard_id).tolist()
    assert list(drawn) == list(range(plan.num_images)), "every id once, in the order of the shards"
    return drawn


@pytest.mark.parametrize("sizes", SIZES)
def test_every_image_id_is_in_exactly_one_shard(sizes):
    plan = plan_of(*sizes)
    rows(plan)
    assert all(len(plan.places(k)) == plan.images_per_shard for k in range(plan.num_shards - 1))
    assert len({plan.shard_name(k) for k in range(plan.num_shards)}) == plan.num_shards


@pytest.mark.parametrize("sizes", SIZES)
def test_label_and_seed_of_an_image_do_not_depend_on_shards_batches_or_the_size_of_the_set(sizes):
    num_images, weights, images_per_shard, sampler_batch_size = sizes
    expected = rows(plan_of(*sizes))
    assert rows(plan_of(num_images, weights, images_per_shard + 1, sampler_batch_size + 3)) == expected
    larger = rows(plan_of(num_images + 9, weights, images_per_shard, sampler_batch_size))
    assert {image_id: larger[image_id] for image_id in expected} == expected


def test_seeds_are_all_different_and_so_are_those_of_another_base_seed():
    seeds = [seed for base in (0, 1, 2) for _, seed in rows(plan_of(400, (1,) * 4, 64, 8, base)).values()]
    assert len(set(seeds)) == 1200
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("sizes", SIZES)
def test_every_prefix_has_the_asked_shares_and_the_class_counts_are_right(sizes):
    plan = plan_of(*sizes)
    labels = np.array([label for label, _ in rows(plan).values()])
    shares = np.array(plan.class_weights) / sum(plan.class_weights)
    for length in range(1, len(labels) + 1):
        counts = np.bincount(labels[:length], minlength=plan.num_classes)
        # At time t of the cycle class c has round(t w_c) images, which errs by half an image, and so does the length
        # that t belongs to, by half an image of every class.
        assert (abs(counts - length * shares) <= 0.5 + 0.5 * plan.num_classes * shares + 1e-9).all()
        if len(set(plan.class_weights)) == 1:
            assert counts.max() - counts.min() <= 1
    assert plan.class_counts() == tuple(np.bincount(labels, minlength=plan.num_classes))


def test_equal_weights_go_round_the_classes():
    assert plan_of(5, (4, 4, 4), 9, 9).label_cycle.tolist() == [0, 1, 2]


def test_a_whole_cycle_has_the_weights_of_the_training_set():
    counts = (50, 20, 10)
    plan = plan_of(80, class_weights_like(counts), 9, 9)
    assert plan.class_weights == (5, 2, 1)
    assert plan.class_counts() == counts


@pytest.mark.parametrize("sizes", SIZES)
def test_further_images_of_a_place_are_of_its_class_and_belong_to_no_other_place(sizes):
    plan = plan_of(*sizes)
    places = np.concatenate([plan.places(k) for k in range(plan.num_shards)])
    attempts = [places + k * plan.stride for k in range(4)]
    for ids in attempts:
        np.testing.assert_array_equal(plan.labels(ids), plan.labels(places))
    assert len(set(itertools.chain.from_iterable(ids.tolist() for ids in attempts))) == 4 * plan.num_images


@pytest.mark.parametrize("sizes", SIZES)
def test_every_call_of_the_sampler_has_the_full_batch_filled_up_with_its_last_image(sizes):
    plan = plan_of(*sizes)
    for shard_id in range(plan.num_shards):
        for batch in plan.batches(plan.places(shard_id)):
            count = batch.num_wanted
            assert len(batch.image_ids) == len(batch.labels) == len(batch.seeds) == plan.sampler_batch_size
            assert 1 <= count <= plan.sampler_batch_size
            for column in (batch.image_ids.tolist(), batch.labels.tolist(), batch.seeds):
                assert set(column[count:]) <= {column[count - 1]}
