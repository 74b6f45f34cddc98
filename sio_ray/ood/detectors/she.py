"""SHE: the inner product with the mean training feature of the predicted class."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.blocks import by_rows
from sio_ray.ood.detectors.gaussian import class_means
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class SHE(Detector):
    """Scores by -x.S_c, c the predicted class, S_c the mean feature of training images of c that are predicted as c.

    As OpenOOD v1.5, in float64. The paper has this beside HE, the Hopfield energy over all of these features instead of
    their mean, and both with the picture perturbed first; it found the inner product better than the Euclidean
    distance and the cosine. Memory: 16 D C bytes and three blocks of 32 MiB; 0.1 GiB for D = 2048
    and C = 1000.
    """

    name = "she"
    title = "SHE"
    paper = "Zhang et al., ICLR 2023, OpenReview:KkazG4lgKL"
    cost = "fit N D, score M D"
    needs = frozenset({"features", "logits"})

    _patterns: Tensor | None = None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; finds the patterns S from the labels.

        Raises:
            EvaluationError: a class of which no training image is predicted right.
        """
        is_right = train.logits.argmax(dim=1) == train.labels
        learned = torch.where(is_right, train.labels, -1)
        counts, patterns = class_means(train.features, learned, train.logits.shape[1], self.device)
        if (counts == 0).any():
            raise EvaluationError(
                "detector she must have a training image of every class that is predicted right, got none of class "
                f"{int(counts.argmin())}; train longer, or leave she out of evaluate.detectors."
            )
        self._patterns = patterns
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; any real number."""
        if self._patterns is None:
            raise self._not_fitted()
        patterns = self._patterns
        return by_rows(
            lambda x, predicted: -(x * patterns[predicted]).sum(dim=1),
            outputs.features,
            outputs.logits.argmax(dim=1),
            device=self.device,
        )
