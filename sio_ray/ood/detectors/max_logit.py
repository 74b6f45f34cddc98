"""MaxLogit (MLS): the largest logit."""

from __future__ import annotations

from torch import Tensor

from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import NetworkOutputs


class MaxLogit(Detector):
    """Scores by -max_c logit_c(x), as OpenOOD v1.5."""

    name = "max_logit"
    title = "MLS"
    paper = "Hendrycks et al., ICML 2022, arXiv:1911.11132"
    cost = "M C"
    needs = frozenset({"logits"})

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        return -outputs.logits.amax(dim=1).double()
