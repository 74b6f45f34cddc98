"""ASH: the energy when each image's largest features share the sum of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Sizes
from sio_ray.ood.detectors.shaping import ShapingDetector, num_kept, refusal_to_keep_none


class ASHOptions(Section):
    """Of ASH.

    Attributes:
        percentile: percentage of an image's features that are dropped; 90 in OpenOOD v1.5.
    """

    percentile: float = Field(90, ge=0, lt=100)


class ASH(ShapingDetector):
    """Scores by -log sum_c exp(w_c.h(x) + b_c): h is sum(x) / k for the k largest features of x, 0 for the others.

    Variant B on the pooled feature, as OpenOOD v1.5; the paper shapes the last feature map. In float64. Of equal
    features, such as zeros among the k largest, those of the lowest index are taken, on every device. All settings of a
    sweep share one sort.
    """

    name = "ash"
    title = "ASH"
    paper = "Djurisic et al., ICLR 2023, arXiv:2209.09858"
    cost = "M D (C + log D) per setting"
    Options = ASHOptions
    options: ASHOptions
    sweep: ClassVar = {"percentile": (65, 70, 75, 80, 85, 90, 95)}

    def refusal(self, sizes: Sizes) -> str | None:
        """See `Detector.refusal`."""
        return refusal_to_keep_none(self.options.percentile, sizes)

    def shaped(self, features: Tensor, options: Sequence[ASHOptions]) -> Iterator[Tensor]:
        """See `ShapingDetector.shaped`."""
        order = features.argsort(dim=1, descending=True, stable=True)
        total = features.sum(dim=1, keepdim=True)
        for option in options:
            kept = order[:, : num_kept(features.shape[1], option.percentile)]
            yield torch.zeros_like(features).scatter(1, kept, (total / kept.shape[1]).expand(kept.shape))
