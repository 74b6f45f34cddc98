"""Cross-entropy: the plain training that most detectors are defined for."""

from __future__ import annotations

from sio_ray.classifier.algorithms.algorithm import Algorithm, Losses, StepContext
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.model import Classifier


class CrossEntropy(Algorithm):
    """l_i = -log softmax(f(x_i))_{y_i}; the baseline of arXiv:1610.02136 and, with synthetic images, of SIO.

    Algorithms that only change the pictures or the head derive from it.
    """

    def losses(self, classifier: Classifier, batch: MixedBatch, context: StepContext) -> Losses:
        """See `Algorithm`."""
        return Losses(self.cross_entropy(classifier(batch.images), batch))
