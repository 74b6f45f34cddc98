"""Drawing a shard: the same bytes every time, whole or not at all, and never somebody else's."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.config import GenerateConfig
from sio_ray.errors import GenerationError, ImageSetError
from sio_ray.generate.plan import Plan
from sio_ray.generate.sampler import PipelineSampler
from sio_ray.generate.shards import adopt_shard, draw_shard
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.shard import decode_shard
from sio_ray.imageset.storage import Folder

PLAN = Plan(num_images=11, num_classes=3, images_per_shard=7, sampler_batch_size=4, base_seed=0)


class SeedSampler:
    """Pictures that show their seed; counts its calls."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def sample(self, labels, seeds):
        self.batch_sizes.append(len(labels))
        pictures = [np.random.default_rng(seed).integers(0, 256, (1, 8, 8), dtype=np.uint8) for seed in seeds]
        return np.stack(pictures)


def test_a_shard_holds_what_its_plan_says_and_surplus_pictures_are_dropped(info, tmp_path):
    folder, plan, sampler = Folder(str(tmp_path)), PLAN.shard(0), SeedSampler()
    entry = draw_shard(sampler, plan, info, folder)
    assert sampler.batch_sizes == [4, 4]
    images, labels, image_ids = decode_shard(folder.read_bytes(plan.name), info, plan.name)
    np.testing.assert_array_equal(labels, plan.labels)
    np.testing.assert_array_equal(image_ids, plan.image_ids)
    np.testing.assert_array_equal(images, SeedSampler().sample(plan.labels, plan.seeds))
    assert (entry.name, entry.num_images) == (plan.name, 7)
    assert adopt_shard(plan, info, folder) == entry
    assert list(folder.list()) == [plan.name]


def test_a_shard_drawn_twice_with_a_real_sampler_is_the_same_bytes(generator_folder, info, tmp_path):
    entries = [
        draw_shard(
            PipelineSampler(generator_folder, GenerateConfig(num_inference_steps=3)),
            PLAN.shard(1),
            info,
            Folder(str(tmp_path / name)),
        )
        for name in ("one", "two")
    ]
    assert entries[0] == entries[1]
    name = PLAN.shard(1).name
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pictures_of_another_shape_are_refused_and_nothing_is_written(tmp_path):
    wide = ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=16, channels=3)
    with pytest.raises(GenerationError) as error:
        draw_shard(SeedSampler(), PLAN.shard(1), wide, Folder(str(tmp_path)))
    assert str(error.value) == (
        "shard 1: the generator draws pictures of shape (1, 8, 8), the training set has (3, 8, 16); "
        "use a generator fitted to that set."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [
        Plan(num_images=11, num_classes=2, images_per_shard=7, sampler_batch_size=4, base_seed=0),  # other labels
        Plan(num_images=8, num_classes=3, images_per_shard=4, sampler_batch_size=4, base_seed=0),  # other ids
    ],
)
def test_a_shard_with_other_images_is_not_adopted(info, tmp_path, other):
    folder, mine = Folder(str(tmp_path)), PLAN.shard(1)
    theirs = other.shard(1)
    assert theirs.name == mine.name
    assert len(theirs.labels) == len(mine.labels)
    draw_shard(SeedSampler(), theirs, info, folder)
    with pytest.raises(GenerationError) as error:
        adopt_shard(mine, info, folder)
    assert str(error.value) == (
        f"{tmp_path}/{mine.name} holds other images than the plan; delete that shard and generate again."
    )


def test_a_broken_shard_is_not_adopted(info, tmp_path):
    folder, plan = Folder(str(tmp_path)), PLAN.shard(0)
    draw_shard(SeedSampler(), plan, info, folder)
    data = folder.read_bytes(plan.name)
    folder.write_bytes(plan.name, data[:-100])
    with pytest.raises(ImageSetError, match=f"{plan.name} is corrupt"):
        adopt_shard(plan, info, folder)
