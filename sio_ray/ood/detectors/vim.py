"""ViM: a virtual logit from the part of the feature that training features do not have, against the energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector, Setting, Sizes
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.residual_space import ResidualSpace, default_dim, dim_refusal
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class ViMOptions(Section):
    """Of ViM.

    Attributes:
        dim: dimension of the principal space, less than D; by the rule of the authors' code if not given: 1000 for
            D >= 2048, 512 for D >= 768, else D // 2. (OpenOOD v1.5 has 256, which is the same for D = 512.)
    """

    dim: int | None = Field(None, ge=1)


class ViM(Detector):
    """Scores by alpha ||R^T (x - u)|| - log sum_c exp(logit_c(x)).

    u = -pinv(W) b is the origin, R spans the directions in which the training features vary least around u, and alpha
    brings the mean residual norm of the training set to its mean largest logit.

    As the paper and OpenOOD v1.5, all in float64; but a dim that leaves no residual is refused, where OpenOOD's sweep
    scores NaN (1000 for ResNet-18), and the sweep begins with the authors' rule, so that a small network has a dim too.
    All dims of a sweep share one product. Memory: as Residual.
    """

    name = "vim"
    title = "ViM"
    paper = "Wang et al., CVPR 2022, arXiv:2203.10807"
    cost = "fit N D^2, score M D^2"
    needs = frozenset({"features", "logits", "last_layer"})
    Options = ViMOptions
    options: ViMOptions
    sweep: ClassVar[Mapping[str, Sequence[int | None]]] = {"dim": (None, 256, 1000)}

    _fitted: tuple[ResidualSpace, float] | None = None

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        return dim_refusal(self._dim(sizes.num_features), sizes.num_features, sizes.num_train)

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the origin, the directions, and the mean residual norms for every dim.

        Raises:
            EvaluationError: the last layer is not linear.
        """
        space = ResidualSpace.of(train.features, self._linear(last_layer), self.device)
        mean_largest_logit = train.logits.amax(dim=1).mean(dtype=torch.float64).item()
        self._fitted = space, mean_largest_logit
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number.

        Raises:
            EvaluationError: no residual is left beside the principal space.
        """
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`; every dim reads its norm off the cumulated squares of one product."""
        if self._fitted is None:
            raise self._not_fitted()
        space, mean_largest_logit = self._fitted
        dims = [self.with_setting(setting)._dim(outputs.features.shape[1]) for setting in settings]
        alphas = [mean_largest_logit / space.mean_norm(dim, detector=self.name) for dim in dims]
        energies = by_rows(lambda x: x.logsumexp(dim=1), outputs.logits, device=self.device)
        norms = space.norms(outputs.features, dims)
        return [alpha * norm - energies for alpha, norm in zip(alphas, norms.T, strict=True)]

    def _dim(self, num_features: int) -> int:
        return default_dim(num_features) if self.options.dim is None else self.options.dim
