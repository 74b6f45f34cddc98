"""VRA: the energy when small features are dropped and large ones cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Sizes
from sio_ray.ood.detectors.shaping import Percentiles, ShapingDetector
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class VRAOptions(Section):
    """Of VRA; defaults are those of OpenOOD v1.5.

    Attributes:
        percentile_high: of the validation features; larger ones are cut to it.
        percentile_low: of the validation features; smaller ones are dropped.
        raise_low: whether smaller ones are raised to it instead, as OpenOOD v1.5 does.
    """

    percentile_high: float = Field(90, ge=0, le=100)
    percentile_low: float = Field(10, ge=0, le=100)
    raise_low: bool = False


class VRA(ShapingDetector):
    """Scores by -log sum_c exp(w_c.h(x) + b_c) with h = 0 for x < l, x for l <= x <= t, t for x > t.

    l and t are percentiles of all features of the ID validation set, as in OpenOOD v1.5, whose h is l for x < l; the
    paper's is 0 (its VRA-P), and so is ours unless `raise_low` asks for the other. They agree where more than
    `percentile_low` percent of the features are 0. pytorch-ood raises too, and has percentiles for every feature of its
    own. Keeps a sorted copy of the validation features, 4 N_val D bytes.
    """

    name = "vra"
    title = "VRA"
    paper = "Xu et al., NeurIPS 2023, arXiv:2302.11716"
    cost = "M D C per setting; keeps N_val D"
    Options = VRAOptions
    options: VRAOptions
    sweep: ClassVar = {"percentile_high": (85, 90, 95, 99), "percentile_low": (1, 5, 10, 15)}

    _percentiles: Percentiles

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        low, high = self.options.percentile_low, self.options.percentile_high
        return None if low < high else f"percentile_low must be less than percentile_high, {high:g}, got {low:g}"

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; sorts the validation features."""
        self._percentiles = Percentiles(val.features)
        return super().fit(train, val, last_layer)

    def shaped(self, features: Tensor, options: Sequence[VRAOptions]) -> Iterator[Tensor]:
        """See `ShapingDetector.shaped`."""
        for option in options:
            low, high = self._percentiles(option.percentile_low), self._percentiles(option.percentile_high)
            below = low if option.raise_low else 0.0
            yield torch.where(features < low, below, features.clamp(max=high))
