"""KNN: the distance to the k-th nearest training feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors import nearest
from sio_ray.ood.detectors.base import Detector, Setting, Sizes
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.nearest import largest_products
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: A feature shorter than this is divided by it, not by its length: one that is all zero stays so.
SMALLEST_NORM = 1e-12

#: Neighbours beyond the k-th that float32 finds, so that those it cannot tell from the k-th are among them.
_MARGIN = 128

_PAIRS_PER_BLOCK = 4096


class KNNOptions(Section):
    """Of KNN.

    Attributes:
        k: the neighbour that is measured; 50 in OpenOOD v1.5, and in the paper for CIFAR-10 (it has 200 for CIFAR-100
            and 1000 for ImageNet).
    """

    k: int = Field(50, ge=1)


@dataclass(frozen=True, eq=False)
class _Bank:
    """The training features, and what makes them of length 1.

    Attributes:
        features: (N, D), those of the training set itself.
        inverse_norms: (N,) float64.
        bonuses: (N,) float64; ||x - y||^2 = ||x||^2 + 1 - 2 (x.y + bonus), 0 but for a feature of zeros.
    """

    features: Tensor
    inverse_norms: Tensor
    bonuses: Tensor

    def unit(self, rows: slice | Tensor, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rows of length 1 and their bonuses."""
        unit = self.features[rows].to(device, dtype) * self.inverse_norms[rows, None].to(device, dtype)
        return unit, self.bonuses[rows].to(device, dtype)


class KNN(Detector):
    """Scores by ||x - y_(k)||, y_(k) the k-th nearest of all training features, all of length 1.

    As OpenOOD v1.5, whose faiss gives the square of it in float32. A well-trained network puts neighbours so close that
    float32 rounds 2 - 2 x.y to noise. Here float32 finds candidates, and float64 measures those that it cannot tell
    from the k-th: a product is off by at most e = 4 (sqrt(D) + 2) 2^-24 (the probabilistic bound of Higham and Mary,
    2019, four deviations wide), so the k-th product of all is off by e as well, and what is further than 2 e from it is
    on its right side. An image with more of them than were kept is searched in float64 from the start.

    One search serves all k of a sweep. The bank is `train.features` itself, read once per 8192 images. Beside it, for
    c = k + 128: 8192 (4 * 8192 + 70 c + 20 D) + 16 N bytes, 1.2 GiB for the sweep with N = 1.28M and D = 2048; and
    8192 (8 * 8192 + 60 k + 24 D) more where float64 searches everything, 1.3 GiB.
    """

    name = "knn"
    title = "KNN"
    paper = "Sun et al., ICML 2022, arXiv:2204.06507"
    cost = "N M D; keeps N D"
    needs = frozenset({"features"})
    Options = KNNOptions
    options: KNNOptions
    sweep: ClassVar[Mapping[str, Sequence[int]]] = {"k": (50, 100, 200, 500, 1000)}

    _bank: _Bank | None = None

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        if self.options.k <= sizes.num_train:
            return None
        return f"k must be at most the number of training images, {sizes.num_train}, got {self.options.k}"

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; keeps the features of all N training images, without a copy."""
        norms = by_rows(lambda x: torch.linalg.vector_norm(x, dim=1), train.features, device=self.device)
        bonuses = torch.where(norms < SMALLEST_NORM, 0.5 - (norms / SMALLEST_NORM).square() / 2, 0)
        self._bank = _Bank(train.features, norms.clamp(min=SMALLEST_NORM).reciprocal(), bonuses)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; in [0, 2]."""
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`; one search finds the neighbours of the largest k."""
        if self._bank is None:
            raise self._not_fitted()
        ks = [self.with_setting(setting).options.k for setting in settings]
        num_rows = len(self._bank.features)
        if max(ks) > num_rows:
            raise EvaluationError(
                f"evaluate.detector_options.knn.k must be at most the number of training images, {num_rows}, got "
                f"{max(ks)}; give a smaller k or more training images."
            )
        blocks = torch.split(outputs.features, nearest.IMAGES_PER_BLOCK)
        return list(torch.cat([self._distances(block, self._bank, ks) for block in blocks]).T)

    def _distances(self, features: Tensor, bank: _Bank, ks: list[int]) -> Tensor:
        """(B, len(ks)) on the CPU."""
        num_rows, num_features = bank.features.shape
        largest_k, count = max(ks), min(max(ks) + _MARGIN, num_rows)

        def search(queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
            def bank_rows(start: int, end: int) -> tuple[Tensor, Tensor]:
                return bank.unit(slice(start, end), queries.device, queries.dtype)

            return largest_products(queries, bank_rows, num_rows, count)

        queries = F.normalize(features.to(self.device, torch.float64), eps=SMALLEST_NORM)
        found, rows = search(queries.float(), count)
        products = found.double()
        two_errors = 2 * 4 * (num_features**0.5 + 2) * 2.0**-24
        is_near = torch.zeros_like(products, dtype=torch.bool)
        for k in ks:
            is_near |= (products - products[:, k - 1 : k]).abs() <= two_errors
        # Where the last one kept is near, those that were not kept may be as well.
        unsure = is_near[:, -1] & (count < num_rows)
        is_near[unsure] = False
        for pairs in torch.split(is_near.nonzero(), _PAIRS_PER_BLOCK):
            image, place = pairs.T
            neighbours, bonuses = bank.unit(rows[image, place].cpu(), self.device, torch.float64)
            products[image, place] = (queries[image] * neighbours).sum(dim=1) + bonuses
        if unsure.any():
            products[unsure, :largest_k] = search(queries[unsure], largest_k)[0]
            products[unsure, largest_k:] = -torch.inf
        closest = products.sort(dim=1, descending=True).values[:, [k - 1 for k in ks]]
        squared = queries.square().sum(dim=1, keepdim=True) + 1 - 2 * closest
        return squared.clamp(min=0).sqrt().cpu()
