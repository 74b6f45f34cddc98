"""Finds images that are in two sets, pixel by pixel: test images that a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from sio_ray.cluster import value_of
from sio_ray.imageset import ImageSet
from sio_ray.imageset.content_hash import content_hashes
from sio_ray.ood.store import OutputStore
from sio_ray.progress import count_progress

Int64Array = npt.NDArray[np.int64]

#: Image ids and content hashes of a set or a shard, (N,) each.
Hashes = tuple[Int64Array, Int64Array]

#: An overlap names so many pairs at the most.
_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Pictures:
    """A set whose pictures are compared.

    Attributes:
        image_set: path or URI.
        outputs: path or URI of an `OutputStore` that was extracted from it, which has the hashes; None to make them.
    """

    image_set: str
    outputs: str | None = None


@dataclass(frozen=True)
class Overlap:
    """Images of one set that are in another one as well.

    Attributes:
        tested: name of the set.
        other: name of the other one.
        num_images: of the tested set.
        examples: pairs of image ids, tested and other; the first few.
    """

    tested: str
    other: str
    num_images: int
    examples: tuple[tuple[int, int], ...]


def find_overlaps(tested: Mapping[str, Pictures], others: Mapping[str, Pictures]) -> list[Overlap]:
    """Compare each tested set with all others by 64-bit hashes of the pixels; only sets of one picture shape can share.

    Args:
        tested: name to OOD or ID test set.
        others: name to set that networks were trained on.

    Returns:
        Pairs of sets that share images, in the order given.

    Raises:
        ImageSetError: a set is missing, or a shard is corrupt.
        EvaluationError: a store is incomplete or corrupt.
    """
    shapes = {each: ImageSet(each.image_set).info.image_shape for each in {*tested.values(), *others.values()}}
    pairs = [(name, other) for name in tested for other in others if shapes[tested[name]] == shapes[others[other]]]
    hashes = _hash_sets({each for name, other in pairs for each in (tested[name], others[other])})
    overlaps = []
    for name, other in pairs:
        (ids, of_tested), (other_ids, of_other) = hashes[tested[name]], hashes[others[other]]
        first_hashes, first = np.unique(of_other, return_index=True)
        rows = np.flatnonzero(np.isin(of_tested, first_hashes))
        if len(rows):
            shown = rows[:_NUM_EXAMPLES]
            matches = other_ids[first[np.searchsorted(first_hashes, of_tested[shown])]]
            examples = tuple(zip(ids[shown].tolist(), matches.tolist(), strict=True))
            overlaps.append(Overlap(name, other, len(rows), examples))
    return overlaps


def _hash_sets(sets: set[Pictures]) -> dict[Pictures, Hashes]:
    """Of each set; those that a store has are read, others are made, all shards in parallel."""
    parts: dict[Pictures, dict[int, Hashes]] = {each: {} for each in sets}
    pending: dict[Any, tuple[Pictures, int, int]] = {}
    read, make = (ray.remote(num_cpus=1)(function) for function in (_read, _make))
    for each in sets:
        if each.outputs is not None:
            pending[read.remote(each.outputs)] = (each, 0, 0)
            continue
        for shard_id, shard in enumerate(ImageSet(each.image_set).manifest.shards):
            pending[make.remote(each.image_set, shard_id)] = (each, shard_id, shard.num_images)
    with count_progress("compare pixels", sum(count for _, _, count in pending.values()), "images") as progress:
        while pending:
            (ready, *_), _ = ray.wait(list(pending))
            each, shard_id, count = pending.pop(ready)
            parts[each][shard_id] = value_of(ready)
            progress.advance(count)
    whole = {}
    for each, of_set in parts.items():
        ids, hashes = zip(*(of_set[shard_id] for shard_id in sorted(of_set)), strict=True)
        whole[each] = np.concatenate(ids), np.concatenate(hashes)
    return whole


def _read(folder: str) -> Hashes:
    """Runs in a task."""
    return OutputStore(folder).content()


def _make(uri: str, shard_id: int) -> Hashes:
    """Runs in a task."""
    image_set = ImageSet(uri)
    arrays = image_set.read_shard(image_set.manifest.shards[shard_id])
    return arrays.image_ids, content_hashes(arrays.images)
