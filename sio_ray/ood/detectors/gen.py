"""GEN: the generalised entropy of the largest probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector, Setting
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.outputs import NetworkOutputs


class GENOptions(Section):
    """Of GEN.

    Attributes:
        gamma: the exponent; 0.1 in the paper and in OpenOOD v1.5.
        M: how many of the largest probabilities count; 100 in both. All do if there are fewer.
    """

    gamma: float = Field(0.1, gt=0)
    M: int = Field(100, ge=1)


class GEN(Detector):
    """Scores by sum_j (p_j (1 - p_j))^gamma over the M largest probabilities of the softmax.

    As OpenOOD v1.5, but from log p in float64: a small gamma makes much of probabilities that float32 rounds to 0 or 1
    (1e-50 to the power of 0.01 is 0.32). All settings of a sweep share one sort, those of one gamma all powers.
    """

    name = "gen"
    title = "GEN"
    paper = "Liu, Lochman and Zach, CVPR 2023, pp. 23946-23955"
    cost = "M C log C, and M C per gamma"
    needs = frozenset({"logits"})
    Options = GENOptions
    options: GENOptions
    sweep: ClassVar = {"gamma": (0.01, 0.1, 0.5, 1, 2, 5, 10), "M": (10, 50, 100, 200, 500, 1000)}

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0."""
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`."""
        pairs = [(other.options.gamma, other.options.M) for other in map(self.with_setting, settings)]
        num_classes = outputs.logits.shape[1]
        most = min(max(M for _, M in pairs), num_classes)

        def entropies(logits: Tensor) -> Tensor:
            log_p = logits.log_softmax(dim=1)
            largest, classes = log_p.topk(most, dim=1)
            log_rest = (-largest.expm1()).log()
            # 1 - p of a p that rounds to 1, from the other classes.
            log_rest[:, 0] = log_p.scatter(1, classes[:, :1], -torch.inf).logsumexp(dim=1)
            log_variance = largest + log_rest
            sums = {gamma: (gamma * log_variance).exp().cumsum(dim=1) for gamma in {gamma for gamma, _ in pairs}}
            return torch.stack([sums[gamma][:, min(M, num_classes) - 1] for gamma, M in pairs], dim=1)

        return list(by_rows(entropies, outputs.logits, device=self.device).T.contiguous())
