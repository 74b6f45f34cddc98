"""TempScale: the largest softmax probability, at the temperature that suits the ID validation set best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from scipy.optimize import brentq
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import blocks, by_rows
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Temperatures that are looked through. A validation set without a mistake has no best one: the lower, the better.
_LOWEST, _HIGHEST = 0.01, 100.0


class TempScaleOptions(Section):
    """Of TempScale.

    Attributes:
        converged: whether T is the best; if not, it is where OpenOOD v1.5 stops, 50 short steps of L-BFGS from 1.5.
    """

    converged: bool = True


class TempScale(Detector):
    """Scores by log((1 - p) / p), p = max_c softmax(logits(x) / T)_c, which orders images as -p does.

    T in [0.01, 100] has the least cross-entropy on the ID validation set, found as the root of its slope in 1 / T, in
    which it is convex. OpenOOD v1.5 and pytorch-ood stop before they are there. The log odds keep apart what -p rounds
    to -1 at a low T.
    """

    name = "temp_scale"
    title = "TempScale"
    paper = "Guo et al., ICML 2017, arXiv:1706.04599"
    cost = "M C"
    needs = frozenset({"logits"})
    Options = TempScaleOptions
    options: TempScaleOptions

    _fitted: tuple[TempScaleOptions, float] | None = None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds T on the ID validation set from its labels."""

        def loss_and_slope(beta: float) -> tuple[float, float]:
            """Cross-entropy at T = 1 / beta, and its derivative by beta."""
            loss, slope = 0.0, 0.0
            for logits, labels in blocks(val.logits, val.labels, device=self.device):
                log_p = (beta * logits).log_softmax(dim=1)
                loss -= log_p.gather(1, labels[:, None]).sum().item() / len(val)
                of_label = logits.gather(1, labels[:, None])[:, 0]
                slope += ((log_p.exp() * logits).sum(dim=1) - of_label).sum().item() / len(val)
            return loss, slope

        if self.options.converged:
            temperature = _best_temperature(lambda beta: loss_and_slope(beta)[1])
        else:
            temperature = _temperature_of_openood(loss_and_slope)
        self._fitted = self.options, temperature
        return self

    @property
    def temperature(self) -> float:
        """T.

        Raises:
            EvaluationError: `fit` comes first, with these options.
        """
        if self._fitted is None or self._fitted[0] != self.options:
            raise self._not_fitted()
        return self._fitted[1]

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at most log(C - 1)."""
        T = self.temperature

        def log_odds(logits: Tensor) -> Tensor:
            largest, index = logits.max(dim=1, keepdim=True)
            return ((logits - largest) / T).scatter(1, index, -torch.inf).logsumexp(dim=1)

        return by_rows(log_odds, outputs.logits, device=self.device)


def _best_temperature(slope: Callable[[float], float]) -> float:
    """1 / beta at the root of a slope that rises with beta; the nearest bound if it has none between them."""
    if slope(1 / _LOWEST) <= 0:
        return _LOWEST
    if slope(1 / _HIGHEST) >= 0:
        return _HIGHEST
    return 1 / float(brentq(slope, 1 / _HIGHEST, 1 / _LOWEST, xtol=1e-13))


def _temperature_of_openood(loss_and_slope: Callable[[float], tuple[float, float]]) -> float:
    temperature = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)

    def closure() -> float:
        T = temperature.item()
        loss, slope = loss_and_slope(1 / T)
        temperature.grad = torch.tensor(-slope / T**2, dtype=torch.float64)
        return loss

    optimizer.step(closure)
    return temperature.item()
