"""NNGuide: the energy, guided by the mean similarity to the nearest of confident training features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors import nearest
from sio_ray.ood.detectors.base import Detector, Sizes
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.nearest import largest_products
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class NNGuideOptions(Section):
    """Of NNGuide.

    Attributes:
        k: neighbours that are averaged; 100 in OpenOOD v1.5 (the paper has 10 for ImageNet).
        bank_share: alpha, the share of the training set that makes the bank; 0.01 in OpenOOD v1.5 and in the paper for
            ImageNet. A small training set needs more.
    """

    k: int = Field(100, ge=1)
    bank_share: float = Field(0.01, gt=0, le=1)

    def num_rows(self, num_train: int) -> int:
        """Of the bank."""
        return math.ceil(self.bank_share * num_train)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The training set (not copied), its energies (N,) float64, and its rows in the order the bank takes them (N,)."""

    train: NetworkOutputs
    energies: Tensor
    order: Tensor


class NNGuide(Detector):
    """Scores by -E(x) mean_{i <= k} s_(i)(x), s_(i) the i-th largest of E(z) cos(x, z) over the bank's features z.

    E is the log-sum-exp of the logits. As OpenOOD v1.5, but for the bank: the paper draws it at random, OpenOOD takes
    the first images of its list, which is ordered by class, so that 1% of ImageNet is ten classes. Here it is drawn
    with a fixed seed from the training images in the order of their ids, whatever their order in the set; a smaller
    bank is part of a larger one.

    In float32 but for E and the mean: a mean of k products changes by no more than their rounding, 1e-6 of its size,
    whichever of two that float32 cannot tell apart is taken. Memory beside the training set: as `largest_products`
    says, with B = R = 8192, and 4 B D bytes; 0.6 GiB for k = 100 and D = 2048.
    """

    name = "nnguide"
    title = "NNGuide"
    paper = "Park et al., ICCV 2023, arXiv:2309.14888"
    cost = "bank_share N M D; keeps N D"
    needs = frozenset({"features", "logits"})
    Options = NNGuideOptions
    options: NNGuideOptions

    _fitted: _Fitted | None = None

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        num_rows = self.options.num_rows(sizes.num_train)
        if self.options.k <= num_rows:
            return None
        return (
            f"k must be at most the size of the bank, {num_rows} (bank_share {self.options.bank_share:g} of "
            f"{sizes.num_train} training images), got {self.options.k}"
        )

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; keeps the features of all N training images, without a copy."""
        energies = by_rows(_energy, train.logits, device=self.device)
        shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        self._fitted = _Fitted(train, energies, train.image_ids.argsort()[shuffled])
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        if self._fitted is None:
            raise self._not_fitted()
        refusal = self.refusal(Sizes.of(self._fitted.train))
        if refusal is not None:
            raise EvaluationError(
                f"evaluate.detector_options.nnguide.{refusal}; give a smaller k or a larger bank_share."
            )
        # In the order of the set, where neighbours lie together on disk.
        members = self._fitted.order[: self.options.num_rows(len(self._fitted.train))].sort().values
        blocks = torch.split(outputs.features, nearest.IMAGES_PER_BLOCK)
        guidance = torch.cat([self._guidance(block, self._fitted, members) for block in blocks])
        return -guidance * by_rows(_energy, outputs.logits, device=self.device)

    def _guidance(self, features: Tensor, fitted: _Fitted, members: Tensor) -> Tensor:
        """(B,) float64 on the CPU, from the rows of the training set that are the bank."""

        def bank_rows(start: int, end: int) -> tuple[Tensor, Tensor]:
            rows = members[start:end]
            unit = F.normalize(fitted.train.features[rows].to(self.device))
            return unit * fitted.energies[rows, None].to(self.device, torch.float32), unit.new_zeros(())

        queries = F.normalize(features.to(self.device))
        similarities, _ = largest_products(queries, bank_rows, len(members), self.options.k)
        return similarities.double().mean(dim=1).cpu()


def _energy(logits: Tensor) -> Tensor:
    return logits.logsumexp(dim=1)
