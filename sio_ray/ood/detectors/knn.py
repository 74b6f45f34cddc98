"""KNN: the distance to the k-th nearest training feature."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Images and bank rows that meet in one matrix product: 128 MiB of float64, whatever the sizes of the sets.
_IMAGES_PER_BLOCK = 1024
_BANK_ROWS_PER_BLOCK = 16384

#: A feature shorter than this is divided by it, not by its length: one that is all zero stays so.
_SMALLEST_NORM = 1e-12


class KNN(Detector):
    """Scores by the Euclidean distance to the k-th nearest of all training features, all of length 1.

    In float64, block by block: a well-trained network puts neighbours so close together that float32 rounds their
    2 - 2 cos to noise. The whole bank is never float64 at one time.

    Args:
        k: neighbour that is measured, at least 1; 50 in OpenOOD v1.5 and in the paper for CIFAR-10 (the paper has 200
            for CIFAR-100 and 1000 for ImageNet).

    Raises:
        ConfigError: k is less than 1.
    """

    name = "knn"
    title = "KNN"
    paper = "Sun et al., ICML 2022, arXiv:2204.06507"
    needs = frozenset({"features"})

    def __init__(self, k: int = 50) -> None:
        if k < 1:
            raise ConfigError("KNN.k", "at least 1", k, "the paper's is 50 for CIFAR-10")
        self.k = k
        self._bank: Tensor | None = None

    def fit(self, train: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; keeps the features of all N training images.

        Raises:
            EvaluationError: fewer than k training images.
        """
        if len(train) < self.k:
            raise EvaluationError(
                f"KNN.k must be at most the number of training images, {len(train)}, got {self.k}; "
                "give a smaller k or more training images."
            )
        self._bank = train.features
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; in [0, 2]."""
        if self._bank is None:
            raise self._not_fitted()
        # The distance falls as x.y - ||y||^2 / 2 rises; the second term is constant but for a feature that is all zero.
        norms = torch.linalg.vector_norm(self._bank, dim=1, dtype=torch.float64)
        inverse_norms = norms.clamp(min=_SMALLEST_NORM).reciprocal()
        offsets = (norms * inverse_norms).square() / -2
        blocks = torch.split(outputs.features, _IMAGES_PER_BLOCK)
        return torch.cat([self._distances(block, self._bank, inverse_norms, offsets) for block in blocks])

    def _distances(self, features: Tensor, bank: Tensor, inverse_norms: Tensor, offsets: Tensor) -> Tensor:
        x = F.normalize(features.double(), eps=_SMALLEST_NORM)
        closest = x.new_empty(len(x), 0)
        for start in range(0, len(bank), _BANK_ROWS_PER_BLOCK):
            rows = slice(start, start + _BANK_ROWS_PER_BLOCK)
            y = bank[rows].double() * inverse_norms[rows, None]
            closeness = torch.addmm(offsets[rows], x, y.T)
            closest = torch.cat([closest, closeness.topk(min(self.k, len(y)), dim=1).values], dim=1)
            closest = closest.topk(min(self.k, closest.shape[1]), dim=1).values
        squared = x.square().sum(dim=1) - 2 * closest[:, self.k - 1]
        return squared.clamp(min=0).sqrt()
