"""Mixed batches of pictures, from arrays or image sets: those of the sampler's indices, and sets that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feed_samples import arrays, ids

from sio_ray.classifier.feed import Composition, MixedBatches, MixedBatchSampler
from sio_ray.errors import BatchError
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set


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
