"""Mixed batches: exactly the asked composition, every real image once per epoch, a pure function of seed and step."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler

from sio_ray.errors import BatchError, ConfigError
from sio_ray.imageset import ImageArrays, ImageSet
from sio_ray.seeding import numpy_generator

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Composition:
    """How many images of each source a batch holds."""

    num_real: int
    num_synthetic: int

    @property
    def batch_size(self) -> int:
        """Images of the batch."""
        return self.num_real + self.num_synthetic

    def of_rank(self, rank: int, world_size: int) -> tuple[slice, slice]:
        """Which real and which synthetic images of the global batch worker `rank` takes.

        Each source is dealt out as evenly as possible. What is left of the real images goes to the first workers and
        what is left of the synthetic ones to the last, so batches differ by one image at the most.
        """
        real_each, real_left = divmod(self.num_real, world_size)
        synthetic_each, synthetic_left = divmod(self.num_synthetic, world_size)

        def real_start(rank: int) -> int:
            return real_each * rank + min(rank, real_left)

        def synthetic_start(rank: int) -> int:
            return synthetic_each * rank + max(0, rank - (world_size - synthetic_left))

        return (
            slice(real_start(rank), real_start(rank + 1)),
            slice(synthetic_start(rank), synthetic_start(rank + 1)),
        )


def compose(global_batch_size: int, real_batch_share: float) -> Composition:
    """Round a share to whole images by the largest remainder; a tie goes to the real ones.

    Raises:
        BatchError: the batch is too small to hold both sources.
    """

    def num_real(batch_size: int) -> int:
        # The product is rounded first: 0.29 * 50 is 14.499... in binary, and the tie would be missed.
        return int(np.floor(round(batch_size * real_batch_share, 9) + 0.5))

    if 0 < real_batch_share < 1 and not 0 < num_real(global_batch_size) < global_batch_size:
        # By bisection, as a share of 1e-12 needs a batch that a count from 1 would not reach.
        enough = 1 + bisect.bisect_left(range(1, 2**60), True, key=lambda size: 0 < num_real(size) < size)
        raise BatchError(
            f"a batch of {global_batch_size} cannot hold both sources at real_batch_share {real_batch_share}; "
            f"take a batch of at least {enough}."
        )
    return Composition(num_real(global_batch_size), global_batch_size - num_real(global_batch_size))


class _Stream:
    """The indices 0..size-1 in a new order every epoch, one epoch after the other without end."""

    def __init__(self, size: int, name: str, seed: int) -> None:
        self._size, self._name, self._seed = size, name, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def take(self, start: int, count: int) -> Indices:
        """Positions [start, start + count) of the stream."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self._size)
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = numpy_generator("epoch", self._seed, self._name, epoch).permutation(self._size)
            parts.append(self._order[offset : offset + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


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
        if not 0 <= real_batch_share <= 1:
            raise ConfigError("real_batch_share", "in [0, 1]", real_batch_share, "give a share, not a percentage")
        self.composition = compose(global_batch_size, real_batch_share)
        for name, count, wanted in (
            ("real", num_real, self.composition.num_real),
            ("synthetic", num_synthetic, self.composition.num_synthetic),
        ):
            if wanted and not count:
                raise BatchError(
                    f"a batch of {global_batch_size} at real_batch_share {real_batch_share} needs {wanted} {name} "
                    f"images, but there is no {name} set; give one, or change real_batch_share."
                )
        if global_batch_size < world_size:
            raise BatchError(f"a batch of {global_batch_size} cannot feed {world_size} workers; take a larger batch.")
        self._real, self._synthetic = _Stream(num_real, "real", seed), _Stream(num_synthetic, "synthetic", seed)
        self._num_real = num_real
        self._real_part, self._synthetic_part = self.composition.of_rank(rank, world_size)
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
        return (
            self._real.take(step * self.composition.num_real, self.composition.num_real),
            self._synthetic.take(step * self.composition.num_synthetic, self.composition.num_synthetic),
        )

    def indices(self, step: int) -> tuple[Indices, Indices]:
        """Real and synthetic indices of this worker's part of batch `step`."""
        real, synthetic = self.global_indices(step)
        return real[self._real_part], synthetic[self._synthetic_part]

    def positions(self) -> Indices:
        """Where this worker's images stand in the global batch: what makes augmentation independent of the split."""
        order = np.arange(self.composition.batch_size)
        real, synthetic = order[: self.composition.num_real], order[self.composition.num_real :]
        return np.concatenate([real[self._real_part], synthetic[self._synthetic_part]])

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        start = self._epoch * self._num_batches
        self._epoch += 1
        for step in range(start, start + self._num_batches):
            real, synthetic = self.indices(step)
            yield [*real.tolist(), *(synthetic + self._num_real).tolist()]


@dataclass(frozen=True)
class MixedBatch:
    """One batch, real images first.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1].
        labels: (B,) int64.
        is_synthetic: (B,) bool.
    """

    images: Tensor
    labels: Tensor
    is_synthetic: Tensor


class MixedBatches:
    """Mixed batches of image sets that fit into memory, without end.

    Args:
        real: the real training set.
        synthetic: the synthetic set; None trains on real images alone.
        global_batch_size: images per batch, over all workers.
        real_batch_share: share of each batch that is real; the usual choice is `real_weight`.
        seed: of the orders.
        rank: position of this worker.
        world_size: number of workers.

    Raises:
        BatchError: a batch cannot be composed so, or the sets differ in picture size, or image sets in their classes.
    """

    def __init__(
        self,
        real: ImageSet | ImageArrays,
        synthetic: ImageSet | ImageArrays | None,
        *,
        global_batch_size: int,
        real_batch_share: float,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if isinstance(real, ImageSet) and isinstance(synthetic, ImageSet):
            for label, (name, other) in enumerate(
                itertools.zip_longest(real.info.class_names, synthetic.info.class_names)
            ):
                if name != other:
                    raise BatchError(
                        f"class {label} is {name!r} in {real} and {other!r} in {synthetic}; "
                        "give a synthetic set with the same classes in the same order."
                    )
        self.real = real.read() if isinstance(real, ImageSet) else real
        synthetic = synthetic.read() if isinstance(synthetic, ImageSet) else synthetic
        self.synthetic = self.real.first(0) if synthetic is None else synthetic
        if self.real.images.shape[1:] != self.synthetic.images.shape[1:]:
            raise BatchError(
                f"real pictures are of shape {self.real.images.shape[1:]}, synthetic ones of "
                f"{self.synthetic.images.shape[1:]}; bring them to one size."
            )
        self.sampler = MixedBatchSampler(
            len(self.real),
            len(self.synthetic),
            global_batch_size=global_batch_size,
            real_batch_share=real_batch_share,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    @property
    def composition(self) -> Composition:
        """Of the global batch."""
        return self.sampler.composition

    def batch(self, step: int) -> MixedBatch:
        """This worker's part of batch `step`, counted from 0; the same whenever it is asked for."""
        real, synthetic = self.sampler.indices(step)
        images = np.concatenate([self.real.images[real], self.synthetic.images[synthetic]])
        labels = np.concatenate([self.real.labels[real], self.synthetic.labels[synthetic]])
        return MixedBatch(
            images=torch.from_numpy(images).float().div_(255),
            labels=torch.from_numpy(labels),
            is_synthetic=torch.arange(len(labels)) >= len(real),
        )

    def __iter__(self) -> Iterator[MixedBatch]:
        step = 0
        while True:
            yield self.batch(step)
            step += 1
