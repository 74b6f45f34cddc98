"""The feed's order as a batch sampler, for a PyTorch `DataLoader` of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from sio_ray.classifier.feed.order import Indices, permutation
from sio_ray.classifier.feed.plan import FeedPlan


class MixedBatchSampler(Sampler[list[int]]):
    """A batch sampler over `ConcatDataset([real, synthetic])` for a plain PyTorch `DataLoader`.

    Every batch has exactly the asked composition. Real images are passed through in a new order every epoch, each once;
    the synthetic ones likewise in an order of their own, cycled when there are fewer. Nothing is shortened: a batch may
    reach from one epoch into the next. Every pass over the sampler goes on where the one before it ended, so a loader
    that is iterated once per epoch needs no more; to resume, call `set_epoch` first.

    Args:
        num_real: images in the real set.
        num_synthetic: images in the synthetic set; may be 0 if `real_batch_share` is 1.
        global_batch_size: images per batch, over all workers.
        real_batch_share: share of each batch that is real, in [0, 1].
        seed: of the orders.
        num_batches: batches per pass; if not given, one epoch of the real set, or of the synthetic set where batches
            hold no real image.
        rank: position of this worker.
        world_size: number of workers; they get disjoint parts of the same global batches.

    Raises:
        BatchError: a batch cannot be composed so.
        ConfigError: `real_batch_share` is out of range.
    """

    def __init__(
        self,
        num_real: int,
        num_synthetic: int,
        *,
        global_batch_size: int,
        real_batch_share: float,
        seed: int = 0,
        num_batches: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._plan = FeedPlan(
            {"real": num_real, "synthetic": num_synthetic},
            lambda source: permutation(source, seed),
            global_batch_size=global_batch_size,
            real_batch_share=real_batch_share,
            rank=rank,
            world_size=world_size,
        )
        self.composition = self._plan.composition
        self._num_real = num_real
        per_epoch = (
            -(-num_real // self.composition.num_real)
            if self.composition.num_real
            else -(-num_synthetic // self.composition.num_synthetic)
        )
        self._num_batches = per_epoch if num_batches is None else num_batches
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be number `epoch`, counted from 0."""
        self._epoch = epoch

    def global_indices(self, step: int) -> tuple[Indices, Indices]:
        """Real and synthetic indices of global batch `step`, each counted within its own set."""
        return self._plan.global_rows("real", step), self._plan.global_rows("synthetic", step)

    def indices(self, step: int) -> tuple[Indices, Indices]:
        """Real and synthetic indices of this worker's part of batch `step`."""
        return self._plan.rows("real", step), self._plan.rows("synthetic", step)

    def positions(self) -> Indices:
        """Where this worker's images stand in the global batch: what makes augmentation independent of the split."""
        return self._plan.positions

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        start = self._epoch * self._num_batches
        self._epoch += 1
        for step in range(start, start + self._num_batches):
            real, synthetic = self.indices(step)
            yield np.concatenate([real, synthetic + self._num_real]).tolist()
