"""What detectors share that shape features, and take the energy of the logits that the last layer makes of these."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sio_ray.ood.detectors.base import Detector, Setting, Sizes
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class ShapingDetector(Detector):
    """Scores by -log sum_c exp(w_c.h(x) + b_c), h a function of the features; a subclass says which.

    The shape is that of the pooled features, as in OpenOOD v1.5. In float64; every block of features is moved once for
    all settings of a sweep.
    """

    needs = frozenset({"features", "last_layer"})

    _layer: LastLayer | None = None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; keeps the last layer."""
        layer = self._linear(last_layer)
        weight, bias = (tensor.detach().to(self.device, torch.float64) for tensor in (layer.weight, layer.bias))
        self._layer = LastLayer(weight, bias)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`."""
        if self._layer is None:
            raise self._not_fitted()
        weight, bias = self._layer.weight, self._layer.bias
        options = [self.with_setting(setting).options for setting in settings]

        def energies(features: Tensor) -> Tensor:
            shaped = self.shaped(features, options)
            return torch.stack([-(h @ weight.T + bias).logsumexp(dim=1) for h in shaped], dim=1)

        return list(by_rows(energies, outputs.features, device=self.device).T.contiguous())

    @abstractmethod
    def shaped(self, features: Tensor, options: Sequence[Any]) -> Iterator[Tensor]:
        """(B, D) h of (B, D) float64 features for each of several `Options`."""


class Percentiles:
    """Percentiles of all numbers of an array, for any number of percentages; keeps them in order.

    Args:
        array: any shape; its numbers are copied once.
    """

    def __init__(self, array: Tensor) -> None:
        self._ascending: npt.NDArray[Any] = np.sort(array.numpy(), axis=None)

    def __call__(self, percentage: float) -> float:
        """In [0, 100], interpolated linearly."""
        position = percentage / 100 * (len(self._ascending) - 1)
        below = int(position)
        low, high = (float(self._ascending[min(i, len(self._ascending) - 1)]) for i in (below, below + 1))
        return low + (high - low) * (position - below)


def num_kept(num_features: int, percentile: float) -> int:
    """How many of an image's features are not among the lowest `percentile` percent, rounded as in OpenOOD v1.5."""
    return num_features - round(num_features * percentile / 100)


def refusal_to_keep_none(percentile: float, sizes: Sizes) -> str | None:
    """What `Detector.refusal` says where no feature would be kept."""
    if num_kept(sizes.num_features, percentile) > 0:
        return None
    return f"percentile must leave one or more of the {sizes.num_features} features, got {percentile:g}"
