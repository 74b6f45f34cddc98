"""Networks, one file each; a network gives features, and a linear last layer that makes logits of them."""

from __future__ import annotations

from collections.abc import Callable

from sio_ray.classifier.networks.network import Network
from sio_ray.classifier.networks.resnet18_32px import ResNet18For32px
from sio_ray.classifier.networks.small_cnn import SmallCNN

#: Name in the config to class; every class takes (channels, num_classes, width).
NETWORKS: dict[str, Callable[[int, int, int], Network]] = {
    "small_cnn": SmallCNN,
    "resnet18_32px": ResNet18For32px,
}

__all__ = ["NETWORKS", "Network"]
