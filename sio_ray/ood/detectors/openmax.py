"""OpenMax: the probability of an unknown class, which takes from the logits of classes whose mean is far."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.gaussian import class_means
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Distances of float32 logits that differ by less, beside the largest, differ by rounding.
_SMALLEST_SPREAD = 1e-6


class OpenMaxOptions(Section):
    """Of OpenMax.

    Attributes:
        tail_size: how many of a class's largest distances its Weibull distribution is fitted to; 20 in the paper and in
            OpenOOD v1.5. A class with fewer gives all.
        alpha: how many of the largest logits are revised, at most all; 3 in OpenOOD v1.5 (10 in the paper, for 1000
            classes).
    """

    tail_size: int = Field(20, ge=3)
    alpha: int = Field(3, ge=1)


class OpenMax(Detector):
    """Scores by log(p_0 / (1 - p_0)), p_0 the softmax's probability of the unknown class.

    v are the logits of an image, m_c the mean logits of training images of class c that are predicted right. The i-th
    largest logit, of class c, loses u_c = v_c w_c (alpha + 1 - i) / alpha with w_c = F_c(||v - m_c|| - s_c + 1), and
    the unknown class gets sum_c u_c. F_c is the Weibull distribution that makes the `tail_size` largest distances to
    m_c in the class most likely, less the smallest of them, s_c, plus 1.

    As OpenOOD v1.5 with libmr 0.1.9, in float64; the log odds neither overflow nor round to ties. pytorch-ood adds
    10000 for 1, as libmr once did, and has a distance of 0 to a class that no image of the batch is predicted as.
    """

    name = "openmax"
    title = "OpenMax"
    paper = "Bendale and Boult, CVPR 2016, arXiv:1511.06233"
    cost = "fit N C, score M C alpha; keeps N"
    needs = frozenset({"logits"})
    Options = OpenMaxOptions
    options: OpenMaxOptions

    _means: Tensor | None = None
    _distances: list[npt.NDArray[np.float64]]
    _found: dict[int, Tensor]

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the means, and keeps the distances of each class.

        Raises:
            EvaluationError: a class of which fewer than three training images are predicted right, or all alike.
        """
        is_right = train.logits.argmax(dim=1) == train.labels
        learned = torch.where(is_right, train.labels, -1)
        counts, means = class_means(train.logits, learned, train.logits.shape[1], self.device)

        def distance(logits: Tensor, classes: Tensor) -> Tensor:
            distances: Tensor = torch.linalg.vector_norm(logits - means[classes.clamp(min=0)], dim=1)
            return distances

        distances = by_rows(distance, train.logits, learned, device=self.device)[is_right].numpy()
        by_class = np.lexsort((distances, train.labels[is_right].numpy()))
        ends = counts.cumsum(dim=0).long().tolist()
        self._distances = np.split(distances[by_class], ends[:-1])
        for label, values in enumerate(self._distances):
            tail = values[-self.options.tail_size :]
            # Two images are at the same distance from their mean.
            if len(tail) < 3 or np.ptp(tail) <= _SMALLEST_SPREAD * tail[-1]:
                raise EvaluationError(
                    "detector openmax must have three or more training images of every class that are predicted right, "
                    f"not all alike, got {len(values)} of class {label}; train longer, or leave openmax out of "
                    "evaluate.detectors."
                )
        self._means, self._found = means, {}
        self._weibulls()
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        if self._means is None:
            raise self._not_fitted()
        means, weibulls = self._means, self._weibulls()
        num_revised = min(self.options.alpha, outputs.logits.shape[1])
        weights = 1 - torch.arange(num_revised, device=self.device, dtype=torch.float64) / self.options.alpha

        def log_odds(logits: Tensor) -> Tensor:
            largest, classes = logits.topk(num_revised, dim=1)
            smallest, shape, log_scale = weibulls[classes].unbind(dim=2)
            distances: Tensor = torch.linalg.vector_norm(logits[:, None] - means[classes], dim=2)
            # Below its origin a Weibull distribution is 0: the log is -inf there.
            logs = (distances - smallest + 1).clamp(min=0).log()
            unknown = -(-(shape * (logs - log_scale)).exp()).expm1() * largest * weights
            revised = logits.scatter(1, classes, largest - unknown)
            return unknown.sum(dim=1) - revised.logsumexp(dim=1)

        return by_rows(log_odds, outputs.logits, device=self.device)

    def _weibulls(self) -> Tensor:
        """Smallest distance of the tail, shape and log scale of every class, (C, 3); found once per tail size."""
        tail_size = self.options.tail_size
        if tail_size not in self._found:
            rows = [_weibull(values[-tail_size:]) for values in self._distances]
            self._found[tail_size] = torch.tensor(rows, dtype=torch.float64, device=self.device)
        return self._found[tail_size]


def _weibull(tail: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    from scipy.stats import weibull_min  # here, as it takes most of a second, which every worker would wait for

    shape, _, scale = weibull_min.fit(tail - tail[0] + 1, floc=0)
    return tail[0], shape, math.log(scale)
