"""MDS++: the Mahalanobis distance to the nearest class mean, of features of length 1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sio_ray.ood.detectors.mds import MDS


class MDSPlusPlus(MDS):
    """Scores by min_c (x - mu_c)^T S^+ (x - mu_c) with x / ||x|| for x, in the means and the covariance S too.

    As the paper's Mahalanobis++; not in OpenOOD v1.5. The lengths of features differ from class to class and from ID to
    OOD, which one covariance for all does not know. In float64 and with the pseudo-inverse of `Mahalanobis`; a feature
    of zeros stays so. Memory: as MDS.
    """

    name = "mds_plus_plus"
    title = "MDS++"
    paper = "Mueller and Hein, ICML 2025, arXiv:2505.18032"

    @staticmethod
    def _mapping(x: Tensor) -> Tensor:
        """See `MDS`."""
        return F.normalize(x)
