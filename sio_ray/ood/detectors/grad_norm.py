"""GradNorm: the size of the last layer's gradient when the network is asked for the uniform distribution."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class GradNorm(Detector):
    """Scores by -||x||_1 sum_c |C p_c - 1|, p the softmax.

    This is the L1 norm of the gradient of -sum_c log p_c by the weights of the last layer, in closed form: the gradient
    is the outer product of C p - 1 and the feature x. OpenOOD v1.5 differentiates image by image, for the same number.
    """

    name = "grad_norm"
    title = "GradNorm"
    paper = "Huang et al., NeurIPS 2021, arXiv:2110.00218"
    cost = "M (C + D)"
    needs = frozenset({"features", "logits", "last_layer"})

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; only sees to it that the last layer is linear, for which the closed form is right."""
        self._linear(last_layer)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at most 0."""

        def norm(features: Tensor, logits: Tensor) -> Tensor:
            p = logits.softmax(dim=1)
            return -features.abs().sum(dim=1) * (p.shape[1] * p - 1).abs().sum(dim=1)

        return by_rows(norm, outputs.features, outputs.logits, device=self.device)
