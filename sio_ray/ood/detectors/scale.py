"""SCALE: the energy when each image's features are scaled by how much its largest ones are of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Sizes
from sio_ray.ood.detectors.shaping import ShapingDetector, num_kept, refusal_to_keep_none


class SCALEOptions(Section):
    """Of SCALE.

    Attributes:
        percentile: percentage of an image's features that are not among its largest; 85 in the paper and in OpenOOD
            v1.5.
    """

    percentile: float = Field(85, ge=0, le=99)


class SCALE(ShapingDetector):
    """Scores by -log sum_c exp(w_c.h(x) + b_c), h = x exp(r), r = sum(x) / sum of the k largest features of x.

    On the pooled feature, as OpenOOD v1.5 and the paper; in float64. r is 1 for an image whose features are all 0,
    where 0 / 0 gives OpenOOD NaN. All settings of a sweep share one sort.
    """

    name = "scale"
    title = "SCALE"
    paper = "Xu et al., ICLR 2024, arXiv:2310.00227"
    cost = "M D (C + log D) per setting"
    Options = SCALEOptions
    options: SCALEOptions
    sweep: ClassVar = {"percentile": (65, 70, 75, 80, 85, 90, 95)}

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        return refusal_to_keep_none(self.options.percentile, sizes)

    def shaped(self, features: Tensor, options: Sequence[SCALEOptions]) -> Iterator[Tensor]:
        """See `ShapingDetector.shaped`."""
        sums = features.sort(dim=1, descending=True).values.cumsum(dim=1)
        total = sums[:, -1:]
        for option in options:
            largest = sums[:, num_kept(features.shape[1], option.percentile) - 1, None]
            ratio = torch.where(largest == total, 1.0, total / largest)
            # Without negative features it is at most D / k, 150 at most.
            if not (ratio < 700).all():
                raise EvaluationError(
                    "detector scale must be given features whose largest have a sum above 0, got a ratio of "
                    f"{ratio.max().item():.3g} to the sum of all; leave scale out for networks with negative features."
                )
            yield features * ratio.exp()
