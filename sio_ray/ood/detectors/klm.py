"""KL matching: the divergence from the nearest typical softmax."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import blocks, by_rows
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class KLM(Detector):
    """Scores by min_k KL(p(x) || d_k), d_k the mean softmax of ID validation images that are predicted as class k.

    As OpenOOD v1.5, in float64 and as one matrix product where it calls a Python function for every image and class.
    Classes that are predicted for no validation image have no d_k; OpenOOD gives them a one-hot one, whose divergence
    is infinite unless float32 has rounded p to one-hot too.
    """

    name = "klm"
    title = "KLM"
    paper = "Hendrycks et al., ICML 2022, arXiv:1911.11132"
    cost = "M C^2"
    needs = frozenset({"logits"})

    _log_typical: Tensor | None = None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the typical softmax of every class on the ID validation set."""
        num_classes = val.logits.shape[1]
        sums = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=self.device)
        for (logits,) in blocks(val.logits, device=self.device):
            sums.index_add_(0, logits.argmax(dim=1), logits.softmax(dim=1))
        counts = sums.sum(dim=1, keepdim=True)
        typical = (sums / counts)[counts[:, 0] > 0]
        # Keeps 0 log 0 at 0; no probability of an image is 0 beside it unless logits are 700 apart.
        self._log_typical = typical.clamp(min=torch.finfo(torch.float64).tiny).log()
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0 but for rounding."""
        if self._log_typical is None:
            raise self._not_fitted()
        log_typical = self._log_typical

        def divergence(logits: Tensor) -> Tensor:
            log_p = logits.log_softmax(dim=1)
            p = log_p.exp()
            return (p * log_p).sum(dim=1) - (p @ log_typical.T).amax(dim=1)

        return by_rows(divergence, outputs.logits, device=self.device)
