"""Drawing a shard: the same bytes every time, whole or not at all, and never somebody else's."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from noise_sampler import NoiseSampler

from sio_ray.config import CurationConfig, GenerateConfig
from sio_ray.errors import ConfigError, GenerationError, ImageSetError
from sio_ray.generate.generator import find_generator
from sio_ray.generate.notes import NOTES_FOLDER, Survey, delete_notes, survey
from sio_ray.generate.plan import Plan
from sio_ray.generate.samplers import open_sampler
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.shard import decode_shard, rejected_ids
from sio_ray.imageset.storage import Folder

PLAN = Plan(num_images=11, class_weights=(1, 1, 1), images_per_shard=7, sampler_batch_size=4, base_seed=0)


def adopt(folder, info, shard_id, *, plan=PLAN, is_curated=False):
    return adopt_shard(plan, info, folder, is_curated, shard_id)


def test_a_shard_holds_what_its_plan_says_and_surplus_pictures_are_dropped(info, tmp_path):
    folder, sampler = Folder(str(tmp_path)), NoiseSampler(info)
    drawn = ShardWriter(sampler, PLAN, info, folder).do(0)
    assert sampler.batch_sizes == [4, 4]
    images, labels, image_ids = decode_shard(folder.read_bytes(drawn.entry.name), info, drawn.entry.name)
    np.testing.assert_array_equal(image_ids, PLAN.places(0))
    np.testing.assert_array_equal(labels, image_ids % 3)
    np.testing.assert_array_equal(images, NoiseSampler(info).sample(labels, [PLAN.seed(i) for i in range(7)]))
    assert (drawn.shard_id, drawn.entry.num_images, drawn.entry.num_rejected) == (0, 7, 0)
    assert drawn.entry.device == "noise"
    assert drawn.seconds.sample_s > 0
    assert drawn.seconds.encode_s > 0
    assert drawn.seconds.write_s > 0
    assert list(folder.list()) == [drawn.entry.name]


def test_a_shard_drawn_twice_with_a_real_sampler_is_the_same_bytes(generator_folder, info, tmp_path):
    entries = []
    for name in ("one", "two"):
        generator, config = find_generator(str(generator_folder)), GenerateConfig(num_inference_steps=3)
        sampler = open_sampler(generator, config, info, "cpu")
        entries.append(ShardWriter(sampler, PLAN, info, Folder(str(tmp_path / name))).do(1).entry)
    assert entries[0] == entries[1]
    assert (tmp_path / "one" / entries[0].name).read_bytes() == (tmp_path / "two" / entries[0].name).read_bytes()


def test_two_threads_draw_two_shards_and_never_enter_the_sampler_together(info, tmp_path):
    class Guarded(NoiseSampler):
        inside = 0

        def sample(self, labels, seeds):
            self.inside += 1
            assert self.inside == 1
            pictures = super().sample(labels, seeds)
            self.inside -= 1
            return pictures

    writer = ShardWriter(Guarded(info), PLAN, info, Folder(str(tmp_path / "both")))
    threads = [threading.Thread(target=writer.do, args=(shard_id,)) for shard_id in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = ShardWriter(NoiseSampler(info), PLAN, info, Folder(str(tmp_path / "alone")))
    for shard_id in (0, 1):
        name = alone.do(shard_id).entry.name
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_pictures_of_another_shape_are_refused_and_nothing_is_written(info, tmp_path):
    wide = ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=16, channels=3)
    with pytest.raises(GenerationError) as error:
        ShardWriter(NoiseSampler(info), PLAN, wide, Folder(str(tmp_path))).do(1)
    assert str(error.value) == (
        "shard 1: the sampler gave uint8 pictures of shape (4, 1, 8, 8), the set has uint8 (4, 3, 8, 16); "
        "use a generator that fits the set."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_does_not_fit_says_which_one_does(info, tmp_path):
    class Small(NoiseSampler):
        def sample(self, labels, seeds):
            if len(labels) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().sample(labels, seeds)

    with pytest.raises(ConfigError) as error:
        ShardWriter(Small(info), PLAN, info, Folder(str(tmp_path))).do(0)
    assert str(error.value) == (
        "generate.sampler_batch_size must be small enough for noise, got 4; 2 fits: set "
        "generate.sampler_batch_size=2 (the bytes depend on it, so it is not changed for you)."
    )


# What was drawn before.


def test_notes_stand_for_shards_as_long_as_these_are_there(info, tmp_path):
    folder = Folder(str(tmp_path))
    assert survey(folder, PLAN) == Survey({}, unnoted=[], missing=[0, 1])
    writer = ShardWriter(NoiseSampler(info), PLAN, info, folder)
    drawn = [writer.do(shard_id) for shard_id in (0, 1)]
    assert survey(folder, PLAN) == Survey({0: drawn[0], 1: drawn[1]}, unnoted=[], missing=[])
    (tmp_path / drawn[0].entry.name).write_bytes(b"cut short")
    assert survey(folder, PLAN) == Survey({1: drawn[1]}, unnoted=[0], missing=[])
    (tmp_path / NOTES_FOLDER / f"{drawn[1].entry.name}.json").write_text("{")
    assert survey(folder, PLAN) == Survey({}, unnoted=[0, 1], missing=[])
    delete_notes(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(shard.entry.name for shard in drawn)


def test_a_shard_without_a_note_is_adopted_and_noted(info, tmp_path):
    folder = Folder(str(tmp_path))
    drawn = ShardWriter(NoiseSampler(info), PLAN, info, folder).do(1)
    delete_notes(folder)
    adopted = adopt(folder, info, 1)
    assert adopted.entry == drawn.entry.model_copy(update={"device": ""})
    assert survey(folder, PLAN).noted == {1: adopted}


@pytest.mark.parametrize(
    "other",
    [
        Plan(num_images=11, class_weights=(1, 1), images_per_shard=7, sampler_batch_size=4, base_seed=0),  # labels
        Plan(num_images=8, class_weights=(1, 1, 1), images_per_shard=4, sampler_batch_size=4, base_seed=0),  # ids
    ],
)
def test_a_shard_with_other_images_is_not_adopted(info, tmp_path, other):
    folder = Folder(str(tmp_path))
    name = ShardWriter(NoiseSampler(info), other, info, folder).do(1).entry.name
    assert name == PLAN.shard_name(1)
    assert len(other.places(1)) == len(PLAN.places(1))
    with pytest.raises(GenerationError) as error:
        adopt(folder, info, 1)
    assert str(error.value) == f"{tmp_path}/{name} holds other images than the plan says."


def test_a_broken_shard_is_not_adopted(info, tmp_path):
    folder = Folder(str(tmp_path))
    name = ShardWriter(NoiseSampler(info), PLAN, info, folder).do(0).entry.name
    folder.write_bytes(name, folder.read_bytes(name)[:-100])
    with pytest.raises(ImageSetError, match=f"{name} is corrupt"):
        adopt(folder, info, 0)


# Curation.


class KeepsBySeed:
    """Keeps a picture by its first pixel, so by its seed alone."""

    max_attempts = 30

    def __init__(self, below: int) -> None:
        self._below = below

    def keeps(self, pictures, labels):
        return pictures[:, 0, 0, 0] < self._below


def test_rejected_pictures_are_replaced_by_further_ones_of_the_same_class_and_recorded(info, tmp_path):
    folder, sampler = Folder(str(tmp_path)), NoiseSampler(info)
    drawn = ShardWriter(sampler, PLAN, info, folder, KeepsBySeed(100)).do(0)
    data = folder.read_bytes(drawn.entry.name)
    images, labels, image_ids = decode_shard(data, info, "it")

    expected_ids, expected_rejected = [], []
    for place in range(7):
        for image_id in range(place, 10**6, PLAN.stride):
            (picture,) = NoiseSampler(info).sample(np.zeros(1, dtype=np.int64), [PLAN.seed(image_id)])
            if picture[0, 0, 0] < 100:
                expected_ids.append(image_id)
                break
            expected_rejected.append(image_id)
    assert image_ids.tolist() == expected_ids
    assert rejected_ids(data) == sorted(expected_rejected)
    assert drawn.entry.num_rejected == len(expected_rejected) > 0
    np.testing.assert_array_equal(labels, np.arange(7) % 3)
    seeds = [PLAN.seed(image_id) for image_id in expected_ids]
    np.testing.assert_array_equal(images, NoiseSampler(info).sample(labels, seeds))
    assert set(sampler.batch_sizes) == {4}, "further calls have the full batch too"

    assert adopt(folder, info, 0, is_curated=True).entry.num_rejected == len(expected_rejected)
    with pytest.raises(GenerationError, match="holds other images than the plan says"):
        adopt(folder, info, 0)


def test_a_place_for_which_nothing_is_kept_fails_its_shard(info, tmp_path):
    with pytest.raises(GenerationError) as error:
        ShardWriter(NoiseSampler(info), PLAN, info, Folder(str(tmp_path)), KeepsBySeed(0)).do(1)
    assert str(error.value) == (
        "shard 1: the curation rule rejected 30 pictures in a row for 4 places of class a, b, c; widen the range from "
        "generate.curation.min_confidence to max_confidence, or use a better generator or classifier."
    )
    assert list(tmp_path.iterdir()) == []


def test_the_rule_needs_a_range():
    with pytest.raises(ConfigError, match=r"min_confidence must be less than max_confidence \(0.5\)"):
        CurationConfig(min_confidence=0.5, max_confidence=0.5)
