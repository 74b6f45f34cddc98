"""Relation: how many training images look alike to the network and get the same prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector, Setting
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Images, and training images, whose relations are in memory at one time.
_IMAGES_PER_BLOCK = 2048


class RelationOptions(Section):
    """Of Relation.

    Attributes:
        power: t; the larger, the more the strongest relations decide. 1 in OpenOOD v1.5.
        threshold: relations up to it are left out; 0.03 in OpenOOD v1.5 and in the authors' code.
    """

    power: float = Field(1.0, gt=0)
    threshold: float = Field(0.03, ge=0, lt=1)


class Relation(Detector):
    """Scores by -sum_z r(x, z)^t over training images z with r > threshold, r = max(0, cos(x, z)) p(x).p(z).

    The cosine is of features, p the softmax. As OpenOOD v1.5; products are float32, powers and sums float64. All powers
    of a sweep share the products and the few pairs that are kept. The training set is read once per 2048 images.
    Memory: 2048 (8 * 2048 + 24 (D + C)) bytes, and 44 for each of at most 2048^2 pairs; 0.35 GiB for D = 2048 and
    C = 1000.
    """

    name = "relation"
    title = "Relation"
    paper = "Kim et al., NeurIPS 2023, arXiv:2301.12321"
    cost = "N M (D + C); keeps N (D + C)"
    needs = frozenset({"features", "logits"})
    Options = RelationOptions
    options: RelationOptions
    sweep: ClassVar[Mapping[str, Sequence[int]]] = {"power": (1, 2, 4, 6, 8)}

    _train: NetworkOutputs | None = None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; keeps features and logits of all N training images, without a copy."""
        self._train = train
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at most 0, which an image without relations has."""
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`; every setting sums powers of the same relations."""
        if self._train is None:
            raise self._not_fitted()
        options = [self.with_setting(setting).options for setting in settings]
        lowest = min(option.threshold for option in options)
        scores = torch.zeros(len(settings), len(outputs), dtype=torch.float64, device=self.device)
        for images in _ranges(len(outputs)):
            x, p = self._unit(outputs, images)
            for members in _ranges(len(self._train)):
                z, q = self._unit(self._train, members)
                relations = (x @ z.T).mul_(p @ q.T)
                # Negative ones are not above a threshold either; of many classes, few pairs are left.
                image, member = (relations > lowest).nonzero(as_tuple=True)
                kept = relations[image, member].double()
                for score, option in zip(scores[:, images], options, strict=True):
                    powers = torch.where(kept > option.threshold, kept.pow(option.power), 0)
                    score.index_add_(0, image, powers, alpha=-1)
        return list(scores.cpu())

    def _unit(self, outputs: NetworkOutputs, rows: slice) -> tuple[Tensor, Tensor]:
        """Features of length 1, and probabilities, float32."""
        features, logits = outputs.features[rows].to(self.device), outputs.logits[rows].to(self.device)
        return F.normalize(features), logits.softmax(dim=1)


def _ranges(total: int) -> list[slice]:
    return [slice(start, start + _IMAGES_PER_BLOCK) for start in range(0, total, _IMAGES_PER_BLOCK)]
