"""fDBD: the distance of a feature to the boundaries of its class."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows, mean_row
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: A feature nearer than this to the mean, or shorter, is divided by it.
_SMALLEST_NORM = 1e-12


class FDBDOptions(Section):
    """Of fDBD.

    Attributes:
        distance_as_normalizer: whether distances are divided by the feature's distance to the mean training feature, as
            in the paper; if not, by its length. OpenOOD v1.5 tries both.
    """

    distance_as_normalizer: bool = True


class FDBD(Detector):
    """Scores by -sum_c |z_c - z_k| / ||w_c - w_k|| / ||x - m||: z logits, k the predicted class, m the mean training x.

    As OpenOOD v1.5, in float64; the paper has the mean over c for the sum, which is in the same order.
    """

    name = "fdbd"
    title = "fDBD"
    paper = "Liu and Qin, ICML 2024, arXiv:2312.11536"
    cost = "fit N D + C^2 D, score M (C + D)"
    needs = frozenset({"features", "logits", "last_layer"})
    Options = FDBDOptions
    options: FDBDOptions
    sweep: ClassVar = {"distance_as_normalizer": (True, False)}

    _mean: Tensor | None = None
    _widths: Tensor

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the mean, and how far the weights of classes are apart.

        Raises:
            EvaluationError: two classes have the same weights, and so no boundary.
        """
        weight = self._linear(last_layer).weight.detach().to(self.device, torch.float64)
        # Distances as products would lose the digits of weights that are close.
        widths = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        same = (widths.fill_diagonal_(1) == 0).nonzero()
        if len(same) > 0:
            first, second = same[0].tolist()
            raise EvaluationError(
                f"detector fdbd must be given a last layer whose classes differ, got the same weights for classes "
                f"{first} and {second}; leave fdbd out of evaluate.detectors."
            )
        self._widths = widths
        self._mean = mean_row(train.features, self.device)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at most 0."""
        if self._mean is None:
            raise self._not_fitted()
        origin = self._mean if self.options.distance_as_normalizer else 0.0

        def distance(features: Tensor, logits: Tensor) -> Tensor:
            largest, classes = logits.max(dim=1, keepdim=True)
            to_boundaries = ((largest - logits) / self._widths[classes[:, 0]]).sum(dim=1)
            length: Tensor = torch.linalg.vector_norm(features - origin, dim=1)
            return -to_boundaries / length.clamp(min=_SMALLEST_NORM)

        return by_rows(distance, outputs.features, outputs.logits, device=self.device)
