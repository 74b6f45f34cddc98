"""MSP: the largest softmax probability."""

from __future__ import annotations

from torch import Tensor

from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.outputs import NetworkOutputs


class MSP(Detector):
    """Scores by -max_c p(c | x), p the softmax.

    As OpenOOD v1.5, but in float64: a confident network gives thousands of images a probability that float32 rounds to
    the same number.
    """

    name = "msp"
    title = "MSP"
    paper = "Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136"
    cost = "M C"
    needs = frozenset({"logits"})

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; in [-1, -1/C]."""
        return by_rows(lambda logits: -logits.softmax(dim=1).amax(dim=1), outputs.logits, device=self.device)
