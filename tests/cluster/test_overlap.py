"""Overlaps: what brute force finds, whether the hashes were made now or with the outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sio_ray.errors import ImageSetError
from sio_ray.evaluation.overlap import Overlap, Pictures, find_overlaps
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.imageset.content_hash import content_hashes
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.store import OUTPUTS, OutputStore


def write(folder, images):
    info = ImageSetInfo(class_names=(), height_px=images.shape[2], width_px=images.shape[3], channels=images.shape[1])
    write_image_set(folder, info, images, np.full(len(images), -1), images_per_shard=7)
    return str(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Sets that share pictures: 3 and 4 of `near` are in `train`, all of `mnist` is, none of `far` is."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 256, (count, 3, 6, 5), dtype=np.uint8)
        for name, count in {"train": 40, "outliers": 20, "near": 15, "far": 9}.items()
    }
    images["near"][3], images["near"][4], images["near"][9] = images["train"][[31, 2, 2]]
    images["near"][14] = images["outliers"][19]
    images["train"][5] = images["train"][2]
    images["tall"] = images["near"].reshape(15, 3, 5, 6)
    return {name: write(folder / name, of_set) for name, of_set in images.items()}


def brute_force(tested, other):
    ids = {}
    for image, image_id in zip(ImageSet(other).read().images, ImageSet(other).read().image_ids, strict=True):
        ids.setdefault(image.tobytes(), int(image_id))
    arrays = ImageSet(tested).read()
    return [
        (int(i), ids[image.tobytes()])
        for i, image in zip(arrays.image_ids, arrays.images, strict=True)
        if image.tobytes() in ids
    ]


def extracted(folder, uri):
    """A store of two shards as extraction leaves it."""
    arrays = ImageSet(uri).read()
    store, half = OutputStore(str(folder)), len(arrays) // 2
    for shard_id, part in enumerate((slice(half), slice(half, None))):
        ids = torch.tensor(arrays.image_ids[part])
        outputs = NetworkOutputs(torch.zeros(len(ids), 2), torch.zeros(len(ids), 2), ids, ids)
        store.write(shard_id, 2, outputs, content_hashes(arrays.images[part]), (), {OUTPUTS})
    return str(folder)


@pytest.mark.parametrize("from_store", [(), ("near",), ("train", "near")])
def test_what_two_sets_share_is_found(sets, tmp_path, from_store):
    pictures = {
        name: Pictures(uri, extracted(tmp_path / name, uri) if name in from_store else None)
        for name, uri in sets.items()
    }
    others = {name: pictures[name] for name in ("train", "outliers")}
    found = find_overlaps({name: pictures[name] for name in ("far", "tall", "near")}, others)
    assert found == [
        Overlap("near", "train", 3, tuple(brute_force(sets["near"], sets["train"]))),
        Overlap("near", "outliers", 1, ((14, 19),)),
    ]
    assert found[0].examples == ((3, 31), (4, 2), (9, 2))


def test_a_set_that_is_trained_on_itself_is_all_overlap(sets):
    (found,) = find_overlaps({"near": Pictures(sets["near"])}, {"outliers": Pictures(sets["near"])})
    assert found == Overlap("near", "outliers", 15, tuple((i, i) for i in range(5)))


def test_sets_of_other_shapes_are_not_even_read(sets, tmp_path):
    broken = tmp_path / "broken"
    write(broken, np.zeros((2, 1, 6, 5), np.uint8))
    next(broken.glob("part-*")).write_bytes(b"")
    pictures = {"broken": Pictures(str(broken))}
    assert find_overlaps(pictures, {"train": Pictures(sets["train"])}) == []
    with pytest.raises(ImageSetError, match=r"broken/part-00000-of-00001.parquet is corrupt"):
        find_overlaps(pictures, pictures)
