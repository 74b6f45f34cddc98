"""Energy (EBO): the free energy of the logits."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.outputs import NetworkOutputs


class EnergyOptions(Section):
    """Of EBO.

    Attributes:
        temperature: T; 1 in the paper and in OpenOOD v1.5.
    """

    temperature: float = Field(1, gt=0)


class Energy(Detector):
    """Scores by E(x) = -T log sum_c exp(logit_c(x) / T).

    As OpenOOD v1.5, whose sweep tries T = 1 alone.
    """

    name = "energy"
    title = "EBO"
    paper = "Liu et al., NeurIPS 2020, arXiv:2010.03759"
    cost = "M C"
    needs = frozenset({"logits"})
    Options = EnergyOptions
    options: EnergyOptions

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        T = self.options.temperature
        return by_rows(lambda logits: -T * (logits / T).logsumexp(dim=1), outputs.logits, device=self.device)
