"""DICE: the energy of a last layer that keeps the weights that matter most to ID images."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows, mean_row
from sio_ray.ood.detectors.shaping import Percentiles
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class DICEOptions(Section):
    """Of DICE.

    Attributes:
        p: percentage of the weights that are dropped; 90 in OpenOOD v1.5 and in the paper for CIFAR-10.
    """

    p: float = Field(90, ge=0, lt=100)


class DICE(Detector):
    """Scores by -log sum_c exp(w_c.x + b_c), with the weights w_cd = 0 whose contribution w_cd m_d is not large.

    m is the mean training feature, and large is above the p-th percentile of all contributions. As OpenOOD v1.5, whose
    sweep tries p = 90 alone; in float64, and as one linear layer where OpenOOD and pytorch-ood form all M C D products.
    """

    name = "dice"
    title = "DICE"
    paper = "Sun and Li, ECCV 2022, arXiv:2111.09805"
    cost = "fit N D, score M D C"
    needs = frozenset({"features", "last_layer"})
    Options = DICEOptions
    options: DICEOptions

    _layer: LastLayer | None = None
    _contributions: Tensor
    _percentiles: Percentiles

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the contributions."""
        layer = self._linear(last_layer)
        weight, bias = (tensor.detach().to(self.device, torch.float64) for tensor in (layer.weight, layer.bias))
        self._contributions = weight * mean_row(train.features, self.device)
        self._percentiles = Percentiles(self._contributions.cpu())
        self._layer = LastLayer(weight, bias)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        if self._layer is None:
            raise self._not_fitted()
        weight = self._layer.weight * (self._contributions > self._percentiles(self.options.p))
        bias = self._layer.bias
        return by_rows(lambda x: -(x @ weight.T + bias).logsumexp(dim=1), outputs.features, device=self.device)
