"""NECO: how much of a feature lies in the principal space of the training features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector, Setting, Sizes
from sio_ray.ood.detectors.blocks import blocks, by_rows, mean_row
from sio_ray.ood.detectors.principal_axes import PrincipalAxes
from sio_ray.ood.detectors.residual_space import dim_refusal
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class NECOOptions(Section):
    """Of NECO.

    Attributes:
        dim: d, of the principal space, less than D; C if not given (D // 2 if C is not less than D), as class means
            span C - 1 dimensions after a neural collapse.
        times_max_logit: whether the share is multiplied by the largest logit; the authors do it for all networks but
            ResNets.
    """

    dim: int | None = Field(None, ge=1)
    times_max_logit: bool = False


class NECO(Detector):
    """Scores by -||P z|| / ||z||, or by that times the largest logit: P the projection on the first d principal axes.

    z is x with mean 0 and standard deviation 1 over the training set in every unit, 0 in one that does not vary there,
    as in the authors' code. Not in OpenOOD v1.5: the paper tunes d for each network and data set, here the sweep
    chooses it, and whether the logit counts. All settings share one product. In float64. Memory: 40 D^2 bytes and four
    blocks of 32 MiB; 0.3 GiB for D = 2048.
    """

    name = "neco"
    title = "NECO"
    paper = "Ben Ammar et al., ICLR 2024, arXiv:2310.06823"
    cost = "fit N D^2, score M D^2"
    needs = frozenset({"features", "logits"})
    Options = NECOOptions
    options: NECOOptions
    sweep: ClassVar[Mapping[str, Sequence[int | bool | None]]] = {
        "dim": (None, 16, 32, 64, 128, 256),
        "times_max_logit": (False, True),
    }

    _axes: PrincipalAxes | None = None

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        return dim_refusal(self._dim(sizes.num_features, sizes.num_classes), sizes.num_features)

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the axes.

        Raises:
            EvaluationError: features that do not vary.
        """
        mean = mean_row(train.features, self.device)
        squares = torch.zeros_like(mean)
        for (rows,) in blocks(train.features, device=self.device):
            squares += (rows - mean).square().sum(dim=0)
        deviation = (squares / len(train)).sqrt()
        # What varies by no more than float32 rounds does not vary.
        varies = deviation > torch.finfo(torch.float32).eps * mean.abs()
        scale = torch.where(varies, 1 / deviation, 0.0)
        self._axes = PrincipalAxes.of(train.features, lambda x: (x - mean) * scale, self.device, detector=self.name)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        return self.score_sweep(outputs, [{}])[0]

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """See `Detector.score_sweep`; every dim reads its share off the cumulated squares of one product."""
        if self._axes is None:
            raise self._not_fitted()
        axes, options = self._axes, [self.with_setting(setting) for setting in settings]
        sizes = outputs.features.shape[1], outputs.logits.shape[1]
        ends = [each._dim(*sizes) - 1 for each in options]
        if refusal := dim_refusal(max(ends) + 1, sizes[0]):
            raise EvaluationError(f"evaluate.detector_options.neco.{refusal}; give a smaller dim.")

        def shares(features: Tensor) -> Tensor:
            squares = axes.squares(features).cumsum(dim=1)
            # A feature at the mean has no direction, and nothing outside the space.
            return (squares[:, ends] / squares[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)).sqrt()

        largest = outputs.logits.amax(dim=1).double()
        found = by_rows(shares, outputs.features, device=self.device).T
        return [
            -share * largest if each.options.times_max_logit else -share
            for share, each in zip(found, options, strict=True)
        ]

    def _dim(self, num_features: int, num_classes: int) -> int:
        if self.options.dim is not None:
            return self.options.dim
        return num_classes if num_classes < num_features else num_features // 2
