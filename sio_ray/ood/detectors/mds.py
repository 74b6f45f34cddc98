"""MDS: the Mahalanobis distance to the nearest class mean."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.gaussian import ClassStatistics, Mahalanobis
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class MDS(Detector):
    """Scores by min_c (x - mu_c)^T S^+ (x - mu_c), S the covariance within classes, shared by all.

    As OpenOOD v1.5, which leaves out the paper's perturbation of the picture and its other layers (`mds_ens` has them),
    and with its pseudo-inverse (see `Mahalanobis`), but in float64: OpenOOD sums the covariance in float32. A ridge in
    its stead, as pytorch-ood has, lets dead units decide.

    Memory: 8 D (4 D + 3 C) bytes and three blocks of 32 MiB; 0.3 GiB for D = 2048 and C = 1000.
    """

    name = "mds"
    title = "MDS"
    paper = "Lee et al., NeurIPS 2018, arXiv:1807.03888"
    cost = "fit N D^2, score M D (D + C)"
    needs = frozenset({"features"})

    _classes: Mahalanobis | None = None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the class means and the covariance from the labels.

        Raises:
            EvaluationError: a class without an image, a label out of range, or features that do not vary.
        """
        statistics = ClassStatistics.of(train, detector=self.name, device=self.device, mapping=self._mapping)
        self._classes = Mahalanobis.of(statistics.means, statistics.within, detector=self.name)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0."""
        if self._classes is None:
            raise self._not_fitted()
        classes = self._classes
        return by_rows(
            lambda x: classes.squared_distances(self._mapping(x)).amin(dim=1), outputs.features, device=self.device
        )

    @staticmethod
    def _mapping(x: Tensor) -> Tensor:
        """(B, D) features to those whose distances count."""
        return x
