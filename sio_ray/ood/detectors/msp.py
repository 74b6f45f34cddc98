"""MSP: the largest softmax probability."""

from __future__ import annotations

from torch import Tensor

from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import NetworkOutputs


class MSP(Detector):
    """Scores by -max_c p(c | x).

    In float64, where the libraries have float32: a confident network gives thousands of images a probability that
    float32 rounds to the same number.
    """

    name = "msp"
    title = "MSP"
    paper = "Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136"
    needs = frozenset({"logits"})

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; in [-1, -1/C]."""
        return -outputs.logits.double().softmax(dim=1).amax(dim=1)
