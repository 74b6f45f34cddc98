"""LogitNorm: cross-entropy on logits of one length, so that a network cannot grow confident by growing them."""

from __future__ import annotations

import torch
from pydantic import Field

from sio_ray.classifier.algorithms.algorithm import Algorithm, Losses, StepContext
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.model import Classifier
from sio_ray.config import Section

#: Keeps the direction of a logit vector of zeros finite; of the authors' code.
_EPSILON = 1e-7


class LogitNormOptions(Section):
    """Of LogitNorm.

    Attributes:
        temperature: tau; the smaller, the sharper the softmax. 0.04 in the paper on CIFAR-10 and in OpenOOD v1.5
            (pytorch-ood has 1, with which nothing is learned well).
    """

    temperature: float = Field(0.04, gt=0)


class LogitNorm(Algorithm):
    """l_i = -log softmax(f_i / (tau ||f_i||))_{y_i}, with f_i the logits (Wei et al., arXiv:2205.09310).

    The norm is taken in float32, under autocast too.
    """

    Options = LogitNormOptions
    options: LogitNormOptions

    def losses(self, classifier: Classifier, batch: MixedBatch, context: StepContext) -> Losses:
        """See `Algorithm`."""
        logits = classifier(batch.images).float()
        length = torch.linalg.vector_norm(logits, dim=1, keepdim=True) + _EPSILON
        return Losses(self.cross_entropy(logits / length / self.options.temperature, batch))
