"""CutMix: a box of every picture is taken from another one of the batch, and the label in proportion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field

from sio_ray.classifier.algorithms.algorithm import StepContext
from sio_ray.classifier.algorithms.cross_entropy import CrossEntropy
from sio_ray.classifier.algorithms.gather import blended, shuffled
from sio_ray.classifier.batch import MixedBatch
from sio_ray.config import Section
from sio_ray.config.section import share


class CutMixOptions(Section):
    """Of CutMix.

    Attributes:
        beta: of the Beta(beta, beta) that the kept share of the area is drawn from; 1 in the paper and in OpenOOD v1.5.
        probability: of mixing in a step; 1 in OpenOOD v1.5 and SIO (the paper has 0.5 on CIFAR, 1 on ImageNet).
    """

    beta: float = Field(1.0, gt=0)
    probability: float = share(1.0)


class CutMix(CrossEntropy):
    """l_i = CE(x_i with a box of x_j, s y_i + (1 - s) y_j), s the share of pixels kept (Yun et al., arXiv:1905.04899).

    The box, of the picture's proportions and about 1 - s of its area, has its centre anywhere and is cut off at the
    border; s is then what is really kept. It is drawn once per step, and j is the partner of i in one shuffle of the
    global batch, as in the authors' code and OpenOOD v1.5, whatever the number of workers. Real and synthetic images
    are mixed with each other; a mixed image has the weight of the place that it stands in, which is that of x_i.
    """

    Options = CutMixOptions
    options: CutMixOptions

    def mix(self, batch: MixedBatch, context: StepContext) -> MixedBatch:
        """See `Algorithm`."""
        generator = context.numpy_generator("box")
        if generator.random() >= self.options.probability:
            return batch
        height, width = batch.images.shape[2:]
        rows, columns = _box(height, width, float(generator.beta(self.options.beta, self.options.beta)), generator)
        partners, labels = shuffled(batch, context)
        images = batch.images.clone()
        images[:, :, rows, columns] = partners[:, :, rows, columns]
        kept = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return replace(batch, images=images, targets=blended(batch.labels, labels, kept, self.num_classes))


def _box(height: int, width: int, kept: float, generator: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a box of about 1 - kept of the area, around a random pixel."""

    def side(length: int) -> slice:
        half, centre = int(length * (1 - kept) ** 0.5) // 2, int(generator.integers(length))
        return slice(max(0, centre - half), min(length, centre + half))

    return side(height), side(width)
