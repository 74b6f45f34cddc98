"""What the tests of networks share: the smallest classifiers that are quick."""

from __future__ import annotations

import torch

from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import NETWORKS

#: The smallest that is quick: side of the pictures, and a width where the network has one of its own.
SMALL = {
    name: (max(8, cls.min_px), None if cls.default_width is None else max(4, cls.default_width // 8))
    for name, cls in NETWORKS.items()
}


def architecture_of(network: str, image_shape: tuple[int, int, int], **changes) -> Architecture:
    channels = image_shape[0]
    fields = {
        "network": network,
        "class_names": tuple(f"c{c}" for c in range(5)),
        "image_shape": image_shape,
        "mean": (0.3, 0.5, 0.6, 0.4)[:channels],
        "std": (0.2, 0.3, 0.1, 0.5)[:channels],
    }
    return Architecture(**fields | changes)


def classifier_of(network: str, channels: int = 3, seed: int = 0, **changes) -> Classifier:
    """Small, in evaluation mode, with batch norms that have seen something."""
    torch.manual_seed(seed)
    size, width = SMALL[network]
    architecture = architecture_of(network, (channels, size, size), **{"width": width} | changes)
    classifier = Classifier(architecture)
    with torch.no_grad():
        classifier(torch.rand(4, *architecture.image_shape))
    return classifier.eval()


def images_for(classifier: Classifier, count: int = 3) -> torch.Tensor:
    return torch.rand(count, *classifier.architecture.image_shape, generator=torch.Generator().manual_seed(1))
