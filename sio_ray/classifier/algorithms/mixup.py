"""MixUp: every picture, and its label, is blended with another one of the batch."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from sio_ray.classifier.algorithms.algorithm import StepContext
from sio_ray.classifier.algorithms.cross_entropy import CrossEntropy
from sio_ray.classifier.algorithms.gather import blended, shuffled
from sio_ray.classifier.batch import MixedBatch
from sio_ray.config import Section


class MixUpOptions(Section):
    """Of MixUp.

    Attributes:
        alpha: of the Beta(alpha, alpha) that the share is drawn from; 0.2 in the paper on ImageNet, and in OpenOOD
            v1.5.
    """

    alpha: float = Field(0.2, gt=0)


class MixUp(CrossEntropy):
    """l_i = CE(s x_i + (1 - s) x_j, s y_i + (1 - s) y_j), s ~ Beta(alpha, alpha) (Zhang et al., arXiv:1710.09412).

    j is the partner of i in one shuffle of the global batch and s is drawn once per step, as in the authors' code and
    OpenOOD v1.5, whatever the number of workers. Real and synthetic images are mixed with each other; a mixed image has
    the weight of the place that it stands in, which is that of x_i.
    """

    Options = MixUpOptions
    options: MixUpOptions

    def mix(self, batch: MixedBatch, context: StepContext) -> MixedBatch:
        """See `Algorithm`."""
        share = float(context.numpy_generator("share").beta(self.options.alpha, self.options.alpha))
        images, labels = shuffled(batch, context)
        return replace(
            batch,
            images=share * batch.images + (1 - share) * images,
            targets=blended(batch.labels, labels, share, self.num_classes),
        )
