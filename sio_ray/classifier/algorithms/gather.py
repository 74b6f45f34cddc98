"""Pairs each image with another one of the global batch, whichever worker holds it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sio_ray.classifier.algorithms.algorithm import StepContext
from sio_ray.classifier.batch import MixedBatch
from sio_ray.training.workers import sum_over_workers


def gather(values: Tensor, positions: Tensor, batch_size: int) -> Tensor:
    """Put together, in every worker, what the workers hold of the global batch.

    Every worker fills its own rows of a batch of zeros, and the sum is the whole: exact, whatever the sizes of the
    parts. It must be called by all workers alike.

    Args:
        values: (B, ...), this worker's rows.
        positions: (B,) int64, where they stand in the global batch.
        batch_size: of the global batch.

    Returns:
        (batch_size, ...), the same in all workers; without workers, `values` in the order of their positions.
    """
    whole = values.new_zeros((batch_size, *values.shape[1:]))
    whole[positions] = values
    return sum_over_workers(whole)


def shuffled(batch: MixedBatch, context: StepContext) -> tuple[Tensor, Tensor]:
    """The partner of every image, from one shuffle of the global batch: real with synthetic, across all workers.

    Returns:
        Its picture (B, C, H, W) and its label (B,).
    """
    size = context.composition.batch_size
    order = torch.randperm(size, generator=context.generator("partners")).to(batch.positions.device)
    partners = order[batch.positions]
    images = gather(batch.images, batch.positions, size)[partners]
    return images, gather(batch.labels, batch.positions, size)[partners]


def blended(labels: Tensor, partners: Tensor, share: float, num_classes: int) -> Tensor:
    """Soft labels, (B, num_classes) float32, that give `share` to the label and the rest to the partner's."""
    own, other = F.one_hot(labels, num_classes), F.one_hot(partners, num_classes)
    return share * own.float() + (1 - share) * other.float()
