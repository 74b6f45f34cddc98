"""ReAct: the energy when large features are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.shaping import Percentiles, ShapingDetector
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class ReActOptions(Section):
    """Of ReAct.

    Attributes:
        percentile: of the validation features, where the cut is; 90 in the paper and in OpenOOD v1.5.
    """

    percentile: float = Field(90, ge=0, le=100)


class ReAct(ShapingDetector):
    """Scores by -log sum_c exp(w_c.min(x, t) + b_c), t a percentile of all features of the ID validation set.

    As OpenOOD v1.5, in float64; pytorch-ood and the paper take the percentile over the training set. Keeps a sorted
    copy of the validation features, 4 N_val D bytes, for the thresholds of a sweep.
    """

    name = "react"
    title = "ReAct"
    paper = "Sun et al., NeurIPS 2021, arXiv:2111.12797"
    cost = "M D C per setting; keeps N_val D"
    Options = ReActOptions
    options: ReActOptions
    sweep: ClassVar = {"percentile": (85, 90, 95, 99)}

    _percentiles: Percentiles

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; sorts the validation features."""
        self._percentiles = Percentiles(val.features)
        return super().fit(train, val, last_layer)

    def shaped(self, features: Tensor, options: Sequence[ReActOptions]) -> Iterator[Tensor]:
        """See `ShapingDetector.shaped`."""
        return (features.clamp(max=self._percentiles(option.percentile)) for option in options)
