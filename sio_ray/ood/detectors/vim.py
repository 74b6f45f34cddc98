"""ViM: a virtual logit from the part of the feature that training features do not have, against the energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Rows that are float64 at one time.
_ROWS_PER_BLOCK = 16384

#: A residual this small beside the features is the rounding of float32 features, not a property of the images.
_SMALLEST_RESIDUAL = 1e-6


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Origin u (D,), basis of the residual space R (D, D - dim), and the scale alpha; all float64."""

    origin: Tensor
    residual_basis: Tensor
    alpha: float


class ViM(Detector):
    """Scores by alpha ||R^T (x - u)|| - log sum_c exp(logit_c(x)).

    u = -pinv(W) b is the origin, R spans the directions in which the training features vary least around u, and alpha
    brings the mean residual norm of the training set to its mean largest logit. All in float64.

    Args:
        dim: dimension of the principal space, in [1, D); by the rule of the authors' code if not given: 1000 for
            D >= 2048, 512 for D >= 768, else D // 2. (OpenOOD v1.5 has 256, which is the same for D = 512.)

    Raises:
        ConfigError: dim is less than 1.
    """

    name = "vim"
    title = "ViM"
    paper = "Wang et al., CVPR 2022, arXiv:2203.10807"
    needs = frozenset({"features", "logits", "last_layer"})

    def __init__(self, dim: int | None = None) -> None:
        if dim is not None and dim < 1:
            raise ConfigError("ViM.dim", "at least 1", dim, "leave it out for half of the feature dimension")
        self.dim = dim
        self._fitted: _Fitted | None = None

    def fit(self, train: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the origin, the residual space and alpha.

        Raises:
            EvaluationError: no direction is left beside the principal space (OpenOOD's score is NaN then), the training
                features have no residual in them, or the last layer is not linear.
        """
        if last_layer is None:
            raise self._no_last_layer()
        num_features = train.features.shape[1]
        dim = default_dim(num_features) if self.dim is None else self.dim
        if dim >= num_features:
            raise EvaluationError(
                f"ViM.dim must be less than the feature dimension, {num_features}, got {dim}; "
                "give a smaller dim, so that a residual is left."
            )
        origin = -(torch.linalg.pinv(last_layer.weight.double()) @ last_layer.bias.double())
        second_moment = origin.new_zeros(num_features, num_features)
        for features in torch.split(train.features, _ROWS_PER_BLOCK):
            centred = features.double() - origin
            second_moment += centred.T @ centred / len(train)
        # Eigenvalues ascend, so the first columns are the residual space.
        eigenvectors = torch.linalg.eigh(second_moment).eigenvectors
        residual_basis = eigenvectors[:, : num_features - dim].contiguous()
        mean_residual = _residual_norms(train.features, origin, residual_basis).mean().item()
        if mean_residual <= _SMALLEST_RESIDUAL * second_moment.trace().sqrt().item():
            raise EvaluationError(
                f"ViM.dim must be less than the rank of the training features, got {dim} with a mean residual norm of "
                f"{mean_residual:.3g}; give a smaller dim, or leave vim out of evaluate.detectors."
            )
        alpha = train.logits.double().amax(dim=1).mean().item() / mean_residual
        self._fitted = _Fitted(origin, residual_basis, alpha)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        if self._fitted is None:
            raise self._not_fitted()
        residuals = _residual_norms(outputs.features, self._fitted.origin, self._fitted.residual_basis)
        return self._fitted.alpha * residuals - outputs.logits.double().logsumexp(dim=1)


def default_dim(num_features: int) -> int:
    """The dimension of the principal space that the authors' code takes for features of this dimension."""
    if num_features >= 2048:
        return 1000
    return 512 if num_features >= 768 else num_features // 2


def _residual_norms(features: Tensor, origin: Tensor, residual_basis: Tensor) -> Tensor:
    blocks = torch.split(features, _ROWS_PER_BLOCK)
    return torch.cat([torch.linalg.vector_norm((block.double() - origin) @ residual_basis, dim=1) for block in blocks])
