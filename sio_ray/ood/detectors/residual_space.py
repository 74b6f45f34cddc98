"""How far features lie from the principal space of the training features, for a principal space of any dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.blocks import blocks, by_rows
from sio_ray.ood.outputs import LastLayer

#: A residual this small beside the features is the rounding of float32 features, not a property of the images.
_SMALLEST_RESIDUAL = 1e-6


def default_dim(num_features: int) -> int:
    """The dimension of the principal space that the authors of ViM take for features of this dimension."""
    if num_features >= 2048:
        return 1000
    return 512 if num_features >= 768 else num_features // 2


def dim_refusal(dim: int, num_features: int, num_train: int | None = None) -> str | None:
    """Why a dimension of the principal space does not suit; None if it does.

    Args:
        dim: of the space.
        num_features: D.
        num_train: N, where something of the training set must be left beside the space: N images span no more than N.
    """
    if dim >= num_features:
        return f"dim must be less than the feature dimension, {num_features}, got {dim}"
    if num_train is not None and dim >= num_train:
        return f"dim must be less than the number of training images, {num_train}, got {dim}"
    return None


@dataclass(frozen=True, eq=False)
class ResidualSpace:
    """Directions around the origin u = -pinv(W) b of the last layer, from the one training features vary least in.

    Attributes:
        origin: u, (D,) float64.
        directions: (D, D) float64, eigenvectors of mean (x - u)(x - u)^T in columns, their eigenvalues ascending.
        mean_norms: (D,) float64; at j, the mean residual norm of the training set if directions 0 to j are residual.
        scale: root mean square of ||x - u||.
        num_train: images of the training set.
    """

    origin: Tensor
    directions: Tensor
    mean_norms: Tensor
    scale: float
    num_train: int

    @classmethod
    def of(cls, features: Tensor, last_layer: LastLayer, device: torch.device) -> Self:
        """Two passes over (N, D) features; the second cumulates squares for the mean norms of all dimensions."""
        weight, bias = (tensor.detach().to(device, torch.float64) for tensor in (last_layer.weight, last_layer.bias))
        origin = -(torch.linalg.pinv(weight) @ bias)
        second_moment = origin.new_zeros(len(origin), len(origin))
        for (rows,) in blocks(features, device=device):
            centred = rows - origin
            second_moment.addmm_(centred.T, centred)
        second_moment /= len(features)
        directions = torch.linalg.eigh(second_moment).eigenvectors
        norm_sums = torch.zeros_like(origin)
        for (rows,) in blocks(features, device=device):
            norm_sums += _cumulated_norms((rows - origin) @ directions).sum(dim=0)
        return cls(origin, directions, norm_sums / len(features), second_moment.trace().sqrt().item(), len(features))

    def mean_norm(self, dim: int, *, detector: str) -> float:
        """Mean residual norm of the training set beside a principal space of `dim` dimensions.

        Raises:
            EvaluationError: no direction is left beside it (OpenOOD's ViM is NaN then), or only rounding.
        """
        num_features = len(self.origin)
        refusal = dim_refusal(dim, num_features, self.num_train)
        if refusal is not None:
            raise EvaluationError(f"evaluate.detector_options.{detector}.{refusal}; give a smaller dim.")
        mean_norm = self.mean_norms[num_features - dim - 1].item()
        if mean_norm <= _SMALLEST_RESIDUAL * self.scale:
            raise EvaluationError(
                f"evaluate.detector_options.{detector}.dim must be less than the rank of the training features, got "
                f"{dim} with a mean residual norm of {mean_norm:.3g}; give a smaller dim, or leave {detector} out of "
                "evaluate.detectors."
            )
        return mean_norm

    def norms(self, features: Tensor, dims: Sequence[int]) -> Tensor:
        """Residual norms of (M, D) features for several principal spaces, (M, len(dims)) on the CPU; one product."""
        num_residual = torch.tensor([len(self.origin) - dim for dim in dims], device=self.origin.device)
        directions = self.directions[:, : int(num_residual.max())]
        return by_rows(
            lambda x: _cumulated_norms((x - self.origin) @ directions)[:, num_residual - 1],
            features,
            device=self.origin.device,
        )


def _cumulated_norms(coordinates: Tensor) -> Tensor:
    """At [:, j], the length of the first j + 1 coordinates."""
    return coordinates.square_().cumsum_(dim=1).sqrt_()
