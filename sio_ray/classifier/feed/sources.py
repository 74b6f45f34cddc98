"""What a feed reads and what it is: one interface for both engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed.composition import Composition
from sio_ray.classifier.feed.plan import SET_NAMES, FeedPlan, Group, Source
from sio_ray.errors import BatchError

S = TypeVar("S")


@dataclass(frozen=True)
class Sources(Generic[S]):
    """The sets that a feed reads: `ImageArrays` in memory, or a `StreamedSet` to stream.

    Attributes:
        real: the real training set.
        synthetic: the synthetic set; None trains on real images alone.
        outliers: pictures of no class.
        mixing: pictures to mix into the images.
    """

    real: S
    synthetic: S | None = None
    outliers: S | None = None
    mixing: S | None = None

    def given(self) -> dict[Source, S]:
        """Those that are there."""
        values: dict[Source, S | None] = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[misc]
        return {source: value for source, value in values.items() if value is not None}


class Feed(Protocol):
    """This worker's mixed batches, without end.

    Every batch of every step has exactly the asked composition, and is the same whenever it is asked for. Over all
    workers each real image is used once per pass, whatever is left of a pass at the end of a step goes on in the next.

    Attributes:
        composition: of the global batch.
        wait_s: how long `batch` took in total; a network that trains waits so long.
    """

    composition: Composition
    wait_s: float

    def batch(self, step: int) -> MixedBatch:
        """This worker's part of batch `step`, from 0, augmented; steps in a row are fast, but any may be asked for."""

    def close(self) -> None:
        """Give back what the feed holds; it gives no batch afterwards."""


def check_shapes(shapes: Mapping[Source, tuple[int, ...]]) -> None:
    """Refuse sets whose pictures cannot be in one batch.

    Raises:
        BatchError: they differ in channels, height or width.
    """
    for source, shape in shapes.items():
        if shape != shapes["real"]:
            raise BatchError(
                f"real pictures are of shape {shapes['real']}, {SET_NAMES[source]} ones of {shape}; "
                "bring them to one size."
            )


class Gathered(NamedTuple):
    """A worker's part of a batch, in main memory or on the device.

    Attributes:
        pictures: uint8, by the field of the batch that they end in.
        labels: (B,) int64.
    """

    pictures: dict[Group, Tensor]
    labels: Tensor

    def pinned(self) -> Gathered:
        """The same in pinned memory, from which a copy to a GPU waits for nobody."""
        return Gathered({group: held.pin_memory() for group, held in self.pictures.items()}, self.labels.pin_memory())


class Assembly:
    """Puts a worker's augmented pictures and labels together as a batch on the training device.

    Args:
        plan: of this worker.
        device: that it trains on.
    """

    def __init__(self, plan: FeedPlan, device: torch.device) -> None:
        self._device = device
        # The same in every batch, so they go to the device once.
        self._positions = torch.from_numpy(plan.positions).to(device)
        self._is_synthetic = self._positions >= plan.composition.num_real

    def batch(self, gathered: Gathered) -> MixedBatch:
        """Pictures are uint8 until they are on the device, which is a quarter of the bytes to move."""
        floats = {
            group: of_group.to(self._device, non_blocking=True).float().div_(255)
            for group, of_group in gathered.pictures.items()
        }
        return MixedBatch(
            images=floats["images"],
            labels=gathered.labels.to(self._device, non_blocking=True),
            is_synthetic=self._is_synthetic,
            positions=self._positions,
            outliers=floats.get("outliers"),
            mixing=floats.get("mixing"),
        )
