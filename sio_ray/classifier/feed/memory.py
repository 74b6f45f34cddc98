"""The feed of sets that fit into memory: indexed into mixed batches, augmented as a whole on the training device."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed.ahead import OneAhead
from sio_ray.classifier.feed.order import Indices, permutation
from sio_ray.classifier.feed.plan import FeedPlan, Source
from sio_ray.classifier.feed.sources import Assembly, Gathered, Sources, check_shapes
from sio_ray.imageset import ImageArrays
from sio_ray.imageset.pictures import UInt8Array

#: A GPU holds all sets itself if they take at most this share of the memory that is free when the feed is made.
_SHARE_OF_GPU = 0.25

#: Just below the largest threshold of glibc's `M_MMAP_THRESHOLD`, which follows the blocks that are freed.
_FREED_BYTES = 2**25 - 2**13

#: Pictures that go to the GPU at a time, when it holds the sets.
_PIECE = 4096


class MemoryFeed:
    """Mixed batches of sets in memory; see `Feed`.

    On a GPU the pictures are held and indexed there if they fit, and else gathered one batch ahead into pinned memory.

    Args:
        sources: the sets; arrays may be read-only, as those of Ray's object store are.
        global_batch_size: real and synthetic images per batch, over all workers.
        real_batch_share: share of them that is real, in [0, 1].
        num_outliers: outliers per batch, over all workers.
        augmentation: of all pictures.
        seed: of orders and augmentation.
        rank: position of this worker.
        world_size: number of workers.
        device: where batches are wanted.
        pool_size: how many synthetic images are in use at a step; see `FeedPlan`.

    Raises:
        BatchError: a batch cannot be composed so, or the sets differ in picture size.
        ConfigError: larger pictures are asked for than there are, or `real_batch_share` is out of range.
    """

    def __init__(
        self,
        sources: Sources[ImageArrays],
        *,
        global_batch_size: int,
        real_batch_share: float,
        num_outliers: int = 0,
        augmentation: Augmentation,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        pool_size: Callable[[int], int] | None = None,
    ) -> None:
        arrays = sources.given()
        check_shapes({source: arrays.images.shape[1:] for source, arrays in arrays.items()})
        self.plan = FeedPlan(
            {source: len(of_source) for source, of_source in arrays.items()},
            lambda source: permutation(source, seed),
            global_batch_size=global_batch_size,
            real_batch_share=real_batch_share,
            num_outliers=num_outliers,
            rank=rank,
            world_size=world_size,
            pool_size=pool_size,
        )
        self.composition = self.plan.composition
        self.wait_s = 0.0
        self._device, self._augmentation, self._seed = torch.device(device), augmentation, seed
        self._shape: tuple[int, int, int] = sources.real.images.shape[1:]
        augmentation.output_shape(self._shape)  # refuses a size that cannot be
        self._assembly = Assembly(self.plan, self._device)
        self._places = {
            group: np.concatenate([self.plan.places[source] for source in members])
            for group, members in self.plan.members.items()
        }
        self._labels = {source: arrays[source].labels for source in self.plan.members["images"]}
        self._images = {source: arrays[source].images for source in self.plan.counts}
        self._on_gpu: dict[Source, Tensor] | None = None
        self._ahead: OneAhead[Gathered] | None = None
        if self._device.type == "cuda":
            if self._fits_on_gpu():
                self._on_gpu = {source: self._to_gpu(images) for source, images in self._images.items()}
            else:
                self._ahead = OneAhead(lambda step: self._gather(step).pinned())
        if self._device.type == "cpu":
            # The C library gives the memory of every batch back to the system, and faults it in again for the next,
            # until it has seen a block of this size freed: a third of the time.
            torch.empty(_FREED_BYTES, dtype=torch.uint8)

    def batch(self, step: int) -> MixedBatch:
        """See `Feed`."""
        start_s = time.perf_counter()
        gathered = self._ahead(step) if self._ahead else self._gather(step)
        pictures = {
            group: self._augmentation.apply(
                of_group.to(self._device, non_blocking=True),
                self._augmentation.draw(self._shape, self.plan.group_sizes[group], self._seed, step, group)[
                    self._places[group]
                ],
            )
            for group, of_group in gathered.pictures.items()
        }
        batch = self._assembly.batch(Gathered(pictures, gathered.labels))
        self.wait_s += time.perf_counter() - start_s
        return batch

    def close(self) -> None:
        """See `Feed`."""
        if self._ahead is not None:
            self._ahead.close()
        self._images, self._on_gpu = {}, None

    def _gather(self, step: int) -> Gathered:
        rows = {source: self.plan.rows(source, step) for source in self._images}
        pictures = {group: self._pick(members, rows) for group, members in self.plan.members.items()}
        labels = np.concatenate([of_source[rows[source]] for source, of_source in self._labels.items()])
        return Gathered(pictures, torch.from_numpy(labels))

    def _pick(self, members: list[Source], rows: dict[Source, Indices]) -> Tensor:
        if self._on_gpu is not None:
            return torch.cat(
                [
                    self._on_gpu[source].index_select(0, torch.from_numpy(rows[source]).to(self._device))
                    for source in members
                ]
            )
        picked = np.empty((sum(len(rows[source]) for source in members), *self._shape), dtype=np.uint8)
        start = 0
        for source in members:
            stop = start + len(rows[source])
            # `clip`, as with any other mode `take` copies once more; all rows are in range.
            np.take(self._images[source], rows[source], axis=0, out=picked[start:stop], mode="clip")
            start = stop
        return torch.from_numpy(picked)

    def _fits_on_gpu(self) -> bool:
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        return sum(images.nbytes for images in self._images.values()) <= _SHARE_OF_GPU * free_bytes

    def _to_gpu(self, images: UInt8Array) -> Tensor:
        held = torch.empty(images.shape, dtype=torch.uint8, device=self._device)
        for start in range(0, len(images), _PIECE):
            # A copy, as torch warns of arrays that are read-only.
            held[start : start + _PIECE] = torch.from_numpy(np.array(images[start : start + _PIECE]))
        return held
