"""CoP: what the principal axes of training features of length 1 leave of a feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector, Setting
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.principal_axes import PrincipalAxes
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class CoPOptions(Section):
    """Of CoP.

    Attributes:
        explained_variance: share of the training set's variance that the principal space has at least; in the authors'
            code 0.85 for CIFAR-10 and 0.99 for ImageNet.
    """

    explained_variance: float = Field(0.85, gt=0, lt=1)


class CoP(Detector):
    """Scores by ||R^T (f(x) - m)||, f(x) = x / ||x||, m the mean of f and R all but the first q of its principal axes.

    PCA under a cosine kernel: q is the smallest number of axes with `explained_variance`. As the paper and its code.
    It is not in OpenOOD v1.5; the sweep spans what the authors set for their networks. All settings share one product.
    In float64. Memory: 40 D^2 bytes and four blocks of 32 MiB; 0.3 GiB for D = 2048.
    """

    name = "cop"
    title = "CoP"
    paper = "Fang et al., NeurIPS 2024, arXiv:2402.02949"
    cost = "fit N D^2, score M D^2"
    needs = frozenset({"features"})
    Options = CoPOptions
    options: CoPOptions
    sweep: ClassVar = {"explained_variance": (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)}

    _axes: PrincipalAxes | None = None

    def mapping(self, num_features: int) -> Callable[[Tensor], Tensor]:
        """f: (B, D) float64 features to (B, P), the feature space of the kernel."""
        return F.normalize

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the axes.

        Raises:
            EvaluationError: features that do not vary.
        """
        mapping = self.mapping(train.features.shape[1])
        self._axes = PrincipalAxes.of(train.features, mapping, self.device, detector=self.name)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0."""
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`; every setting reads its norm off the cumulated squares of one product."""
        if self._axes is None:
            raise self._not_fitted()
        axes = self._axes
        dims = [axes.dim_of(self.with_setting(setting).options.explained_variance) for setting in settings]

        def norms(features: Tensor) -> Tensor:
            # From the smallest axis on, so that a small rest is not the difference of large sums.
            rests = axes.squares(features).flip(1).cumsum(dim=1)
            rests = torch.cat([rests.new_zeros(len(rests), 1), rests], dim=1)
            return rests[:, [rests.shape[1] - 1 - dim for dim in dims]].sqrt()

        return list(by_rows(norms, outputs.features, device=self.device).T.contiguous())
