"""MDS++: the Mahalanobis distance to the nearest class mean, of features of length 1."""

from __future__ import annotations

from typing import Self

import torch.nn.functional as F
from torch import Tensor

from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.gaussian import ClassStatistics, Mahalanobis
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class MDSPlusPlus(Detector):
    """Scores by min_c (x - mu_c)^T S^+ (x - mu_c) with x / ||x|| for x, in the means and the covariance S too.

    As the paper's Mahalanobis++; not in OpenOOD v1.5. The lengths of features differ from class to class and from ID to
    OOD, which one covariance for all does not know. In float64 and with the pseudo-inverse of `Mahalanobis`; a feature
    of zeros stays so. Memory: as MDS.
    """

    name = "mds_plus_plus"
    title = "MDS++"
    paper = "Mueller and Hein, ICML 2025, arXiv:2505.18032"
    cost = "fit N D^2, score M D (D + C)"
    needs = frozenset({"features"})

    _classes: Mahalanobis | None = None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the class means and the covariance from the labels.

        Raises:
            EvaluationError: a class without an image, a label out of range, or features that do not vary.
        """
        statistics = ClassStatistics.of(train, detector=self.name, device=self.device, mapping=F.normalize)
        self._classes = Mahalanobis.of(statistics.means, statistics.within, detector=self.name)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0."""
        if self._classes is None:
            raise self._not_fitted()
        classes = self._classes
        return by_rows(
            lambda x: classes.squared_distances(F.normalize(x)).amin(dim=1), outputs.features, device=self.device
        )
