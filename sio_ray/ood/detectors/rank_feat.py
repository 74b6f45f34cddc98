"""RankFeat: the energy of a picture whose feature maps have lost what is largest in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, ScoredNetwork, StagedNetwork, no_graph


@dataclass(frozen=True)
class RankFeatLogits(Probe):
    """Logits, (B, 2, C), from the maps of the last stage, and of the last but one, without their rank-1 part."""

    name = "rank_feat"
    reads_maps = True

    def refusal(self, network: ScoredNetwork) -> str | None:
        """See `Probe`."""
        whole = isinstance(network, StagedNetwork) and network.resumable
        return super().refusal(network) or (None if whole else "feature maps that its later stages can go on from")

    def read(self, batch: BatchPass) -> Tensor:
        """See `Probe`."""
        logits = [
            batch.network.logits(batch.staged.features_from(without_rank_1(batch.maps[-1 - num_left]), num_left))
            for num_left in (0, 1)
        ]
        return no_graph(torch.stack(logits, 1))


def without_rank_1(maps: Tensor) -> Tensor:
    """(B, C, H, W) maps less s u v^T, the largest singular triple of each (C, H W) matrix.

    u s v^T is A v v^T, v the first eigenvector of A^T A, or u u^T A, u that of A A^T: what is smaller. In float64 that
    is exact to the digits of the maps.
    """
    A = maps.detach().flatten(2).double()
    if wide := A.shape[1] <= A.shape[2]:
        A = A.mT
    v = torch.linalg.eigh(A.mT @ A).eigenvectors[..., -1:]
    rest: Tensor = A - (A @ v) @ v.mT
    return (rest.mT if wide else rest).reshape(maps.shape).to(maps.dtype)


class RankFeatOptions(Section):
    """Of RankFeat.

    Attributes:
        temperature: T of the energy. 1 in the paper and in OpenOOD v1.5.
    """

    temperature: float = Field(1.0, gt=0)


class RankFeat(Detector):
    """Scores by -T logsumexp(z / T), z the mean of the two logits of `RankFeatLogits`, as the paper and OpenOOD v1.5.

    Theirs are blocks 4 and 3 of a ResNet, here the last two stages of any network that can go on from its maps.
    """

    name = "rank_feat"
    title = "RankFeat"
    paper = "Song et al., NeurIPS 2022, arXiv:2209.08590"
    cost = "the last stage once more, and an eigen-decomposition of 2 matrices of min(C, HW)^2 an image"
    needs = frozenset()
    Options = RankFeatOptions
    options: RankFeatOptions

    def probes(self) -> tuple[Probe, ...]:
        """See `Detector`."""
        return (RankFeatLogits(),)

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`."""
        T = self.options.temperature
        logits = outputs.probe("rank_feat", detector=self.name).double().mean(1)
        return -T * (logits / T).logsumexp(1)
