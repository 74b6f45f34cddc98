"""Principal axes of what a mapping makes of the training features, for a principal space of any dimension."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.blocks import blocks

#: (B, D) float64 features to (B, P).
Mapping = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Axes of mapped training features around their mean, from the one along which they vary most.

    Attributes:
        mapping: features to what the axes are of.
        mean: (P,) float64.
        axes: (P, P) float64, in columns.
        variances: (P,) float64, along the axes; at least 0.
    """

    mapping: Mapping
    mean: Tensor
    axes: Tensor
    variances: Tensor

    @classmethod
    def of(cls, features: Tensor, mapping: Mapping, device: torch.device, *, detector: str) -> Self:
        """Two passes over (N, D) features: the mean, then the covariance around it, which is 8 P^2 bytes.

        Raises:
            EvaluationError: the mapped features do not vary.
        """
        mean = sum((mapping(rows).sum(dim=0) for (rows,) in blocks(features, device=device)), torch.tensor(0.0))
        mean = mean / len(features)
        covariance = mean.new_zeros(len(mean), len(mean))
        for (rows,) in blocks(features, device=device):
            centred = mapping(rows) - mean
            covariance.addmm_(centred.T, centred)
        variances, axes = torch.linalg.eigh(covariance / len(features))
        # Less is how float32 rounds features.
        if variances[-1] <= torch.finfo(torch.float32).eps ** 2 * mean.square().sum():
            raise EvaluationError(
                f"detector {detector} must have training features that vary, got the same ones for every image; check "
                "the checkpoint."
            )
        return cls(mapping, mean, axes.flip(1), variances.flip(0).clamp(min=0))

    def squares(self, features: Tensor) -> Tensor:
        """(B, P) squared coordinates of (B, D) float64 features along the axes."""
        return ((self.mapping(features) - self.mean) @ self.axes).square()

    def dim_of(self, share: float) -> int:
        """The smallest dimension of a principal space that has a share of the variance."""
        shares = self.variances.cumsum(dim=0) / self.variances.sum()
        return min(int((shares < share).sum()) + 1, len(shares))
