"""Outlier exposure (OE): outliers, a third stream of pictures, are to get the uniform distribution."""

from __future__ import annotations

import torch
from pydantic import Field

from sio_ray.classifier.algorithms.algorithm import Algorithm, Losses, StepContext
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.model import Classifier
from sio_ray.config import Section


class OutlierExposureOptions(Section):
    """Of outlier exposure.

    Attributes:
        weight: lambda; 0.5 in the paper for classification, and in OpenOOD v1.5.
    """

    weight: float = Field(0.5, ge=0)


class OutlierExposure(Algorithm):
    """sum_i w_i CE(x_i, y_i) + lambda mean_o CE(x_o, uniform) (Hendrycks et al., arXiv:1812.04606).

    CE(x, uniform) = logsumexp(f(x)) - mean_c f_c(x). Each mean is over its own group (pytorch-ood has one mean over
    both, which weighs the terms by the sizes of the groups). The paper takes 256 outliers for 128 images. Images and
    outliers go through the network as one batch, as in the authors' code, so batch normalisation normalises by the same
    mixture in training and afterwards; OpenOOD runs them apart.
    """

    Options = OutlierExposureOptions
    needs = frozenset({"outliers"})
    options: OutlierExposureOptions

    def losses(self, classifier: Classifier, batch: MixedBatch, context: StepContext) -> Losses:
        """See `Algorithm`."""
        assert batch.outliers is not None, "outlier exposure declares that it needs outliers"
        logits = classifier(torch.cat([batch.images, batch.outliers])).float()
        of_images, of_outliers = logits.tensor_split([len(batch.images)])
        to_uniform = of_outliers.logsumexp(1) - of_outliers.mean(1)
        return Losses(
            self.cross_entropy(of_images, batch),
            self.options.weight * to_uniform.sum() / context.composition.num_outliers,
        )
