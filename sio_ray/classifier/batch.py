"""The batch that a training step sees: this worker's part of the global batch, real images first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class MixedBatch:
    """This worker's part of one batch, on the training device.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1], augmented; real images first.
        labels: (B,) int64.
        is_synthetic: (B,) bool.
        positions: (B,) int64, where each image stands in the global batch.
        outliers: (O, C, H, W) float32, pictures of no class, for algorithms that train on them.
        mixing: (B, C, H, W) float32, a picture to mix into each image, for algorithms that do so.
        targets: (B, num_classes) float32, rows sum to 1; what labels became where an algorithm has mixed images.
    """

    images: Tensor
    labels: Tensor
    is_synthetic: Tensor
    positions: Tensor
    outliers: Tensor | None = None
    mixing: Tensor | None = None
    targets: Tensor | None = None

    def chunks(self, count: int) -> Iterator[MixedBatch]:
        """Cut into `count` pieces of about the same size, outliers too; fewer where there are fewer images.

        A piece takes every `count`-th image, so that all have the same mixture of real and synthetic ones: batch
        normalisation would else see some pieces of real images alone.
        """
        count = min(count, len(self.labels))
        for first in range(count):
            yield MixedBatch(
                **{
                    field.name: value[first::count].contiguous()
                    for field in fields(self)
                    if (value := getattr(self, field.name)) is not None
                }
            )
