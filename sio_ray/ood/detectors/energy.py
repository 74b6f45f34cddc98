"""Energy (EBO): the free energy of the logits."""

from __future__ import annotations

from torch import Tensor

from sio_ray.errors import ConfigError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import NetworkOutputs


class Energy(Detector):
    """Scores by E(x) = -T log sum_c exp(logit_c(x) / T).

    Args:
        temperature: T, greater than 0; 1 in the paper and in OpenOOD v1.5.

    Raises:
        ConfigError: the temperature is not positive.
    """

    name = "energy"
    title = "EBO"
    paper = "Liu et al., NeurIPS 2020, arXiv:2010.03759"
    needs = frozenset({"logits"})

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ConfigError("Energy.temperature", "greater than 0", temperature, "the paper's is 1")
        self.temperature = temperature

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        return -self.temperature * (outputs.logits.double() / self.temperature).logsumexp(dim=1)
