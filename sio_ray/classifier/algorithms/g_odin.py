"""Generalized ODIN: the logit as a quotient, h for the class and g for whether the picture is of the data at all."""

from __future__ import annotations

from torch import nn

from sio_ray.classifier.algorithms.cross_entropy import CrossEntropy
from sio_ray.classifier.model import Classifier
from sio_ray.classifier.networks.heads import GODINHead


class GODIN(CrossEntropy):
    """l_i = -log softmax(h(x_i) / g(x_i))_{y_i} (Hsu et al., arXiv:2002.11297).

    h is the cosine between feature and class weight, g a sigmoid of the batch-normalised feature; both are the head
    `g_odin` of the classifier. As in the paper and in OpenOOD v1.5, weight decay leaves h alone. Here h follows the
    learning rate of all else; OpenOOD hands its schedule to the wrong optimiser, so there h keeps the first rate.
    """

    head = "g_odin"

    def no_decay(self, classifier: Classifier) -> list[nn.Parameter]:
        """See `Algorithm`; the numerator h."""
        assert isinstance(classifier.head, GODINHead), "the head that the algorithm declares"
        return list(classifier.head.h.parameters())
