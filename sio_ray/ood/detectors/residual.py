"""Residual: the part of the feature that training features do not have."""

from __future__ import annotations

from typing import Self

from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector, Sizes
from sio_ray.ood.detectors.residual_space import ResidualSpace, default_dim, dim_refusal
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class ResidualOptions(Section):
    """Of Residual.

    Attributes:
        dim: dimension of the principal space, less than D; by the rule of the authors' code if not given: 1000 for
            D >= 2048, 512 for D >= 768, else D // 2. (OpenOOD v1.5 has 512 always, which leaves ResNet-18 no residual.)
    """

    dim: int | None = Field(None, ge=1)


class Residual(Detector):
    """Scores by ||R^T (x - u)||, R the directions beside the principal space; the first term of ViM, by its authors.

    On the training set, as in the paper; OpenOOD v1.5 takes the principal space of the validation set, of as many
    images as features or fewer. In float64. Memory: 40 D^2 bytes and three blocks of 32 MiB; 0.3 GiB for D = 2048.
    """

    name = "residual"
    title = "Residual"
    paper = "Wang et al., CVPR 2022, arXiv:2203.10807"
    cost = "fit N D^2, score M D^2"
    needs = frozenset({"features", "last_layer"})
    Options = ResidualOptions
    options: ResidualOptions

    _space: ResidualSpace | None = None

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        return dim_refusal(self._dim(sizes.num_features), sizes.num_features, sizes.num_train)

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the directions.

        Raises:
            EvaluationError: the last layer is not linear.
        """
        self._space = ResidualSpace.of(train.features, self._linear(last_layer), self.device)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0.

        Raises:
            EvaluationError: no residual is left beside the principal space.
        """
        if self._space is None:
            raise self._not_fitted()
        dim = self._dim(outputs.features.shape[1])
        self._space.mean_norm(dim, detector=self.name)
        return self._space.norms(outputs.features, [dim])[:, 0]

    def _dim(self, num_features: int) -> int:
        return default_dim(num_features) if self.options.dim is None else self.options.dim
