"""NCI: how close a feature is to the weight vector of its class, and how long it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector, Setting
from sio_ray.ood.detectors.blocks import by_rows, mean_row
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: A feature nearer than this to the mean has no direction; its closeness is 0.
_SMALLEST_NORM = 1e-12


class NCIOptions(Section):
    """Of NCI.

    Attributes:
        alpha: what the length of the feature counts for; 0.0001 in OpenOOD v1.5.
    """

    alpha: float = Field(0.0001, ge=0)


class NCI(Detector):
    """Scores by -w_c.(x - m) / ||x - m|| - alpha ||x||_1: c the predicted class, m the mean training feature.

    As OpenOOD v1.5 and the paper, in float64. All settings of a sweep share both terms.
    """

    name = "nci"
    title = "NCI"
    paper = "Liu and Qin, CVPR 2025, arXiv:2311.01479"
    cost = "fit N D, score M D"
    needs = frozenset({"features", "logits", "last_layer"})
    Options = NCIOptions
    options: NCIOptions
    sweep: ClassVar = {"alpha": (0.0001, 0.001, 0.01, 0.1)}

    _mean: Tensor | None = None
    _weight: Tensor

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the mean."""
        self._weight = self._linear(last_layer).weight.detach().to(self.device, torch.float64)
        self._mean = mean_row(train.features, self.device)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`."""
        if self._mean is None:
            raise self._not_fitted()
        mean = self._mean

        def terms(features: Tensor, classes: Tensor) -> Tensor:
            centred = features - mean
            length = torch.linalg.vector_norm(centred, dim=1).clamp(min=_SMALLEST_NORM)
            closeness = (self._weight[classes] * centred).sum(dim=1) / length
            return torch.stack([closeness, features.abs().sum(dim=1)], dim=1)

        predicted = outputs.logits.argmax(dim=1)
        closeness, size = by_rows(terms, outputs.features, predicted, device=self.device).unbind(dim=1)
        return [-closeness - self.with_setting(setting).options.alpha * size for setting in settings]
