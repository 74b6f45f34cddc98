"""G-ODIN: the largest numerator of a decomposed confidence, after a small step that makes it larger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, ScoredNetwork, no_graph


@runtime_checkable
class _Decomposed(Protocol):
    """A last layer whose logits are h / g."""

    def numerators(self, features: Tensor) -> Tensor:
        """h, (B, C), of features."""


@dataclass(frozen=True)
class GODINStep(Probe):
    """Numerators h, (B, C), at x' = x + epsilon * sign(grad_x max_c h_c(x)): 2 forwards and 1 backward."""

    epsilon: float

    name = "g_odin"
    differentiates = True

    def refusal(self, network: ScoredNetwork) -> str | None:
        """See `Probe`."""
        return None if isinstance(_head(network), _Decomposed) else "a g_odin head (train.algorithm: g_odin)"

    def read(self, batch: BatchPass) -> Tensor:
        """See `Probe`."""
        head = _head(batch.network)
        assert isinstance(head, _Decomposed), "refusal comes before work"
        with batch.recording():
            h = head.numerators(batch.features)
        if self.epsilon == 0:
            return no_graph(h)
        of_largest = torch.nn.functional.one_hot(h.argmax(1), h.shape[1])
        step = batch.step(batch.gradient(h, of_largest), self.epsilon)
        return no_graph(head.numerators(batch.network.features(step)))


def _head(network: ScoredNetwork) -> object:
    return getattr(network, "head", None)


class GODINOptions(Section):
    """Of G-ODIN.

    Attributes:
        epsilon: size of the step, of pixels in [0, 1]; 0 for none. 0.0025 in OpenOOD v1.5, which does not sweep it. The
            paper takes that of 0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08 with the largest mean of max h on ID images.
        softmax: whether h goes through a softmax, as in OpenOOD v1.5 and the SIO authors' code; the paper's score is
            the largest h itself.
    """

    epsilon: float = Field(0.0025, ge=0)
    softmax: bool = True


class GODIN(Detector):
    """Scores by -max_c softmax(h(x'))_c, or by -max_c h_c(x'), x' as in `GODINStep`; for networks with a g_odin head.

    As in OpenOOD v1.5, whose softmax over cosines the paper does not have: it moves images whose cosines are large for
    several classes towards OOD. The SIO authors divide the step by 63, 62.1 and 66.7 / 255 after normalising, OpenOOD
    by the standard deviation of the data; with the latter it is a step of epsilon in pixels.
    """

    name = "g_odin"
    title = "G-ODIN"
    paper = "Hsu et al., CVPR 2020, arXiv:2002.11297"
    cost = "1 further forward and 1 backward"
    needs = frozenset()
    Options = GODINOptions
    options: GODINOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._probe = GODINStep(self.options.epsilon)

    def probes(self) -> tuple[Probe, ...]:
        """See `Detector`."""
        return (self._probe,)

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; in [-1, 1]."""
        if self.options.epsilon != self._probe.epsilon:
            raise EvaluationError(
                f"detector g_odin must have the epsilon that was extracted, {self._probe.epsilon:g}, got "
                f"{self.options.epsilon:g}; give it in evaluate.detector_options."
            )
        h = outputs.probe("g_odin", detector=self.name).double()
        return -(h.softmax(1) if self.options.softmax else h).amax(1)
