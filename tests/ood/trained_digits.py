"""One small trained network: realistic features, not random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


@dataclass
class TrainedDigits:
    """A classifier for digits 0 to 5, pictures (N, 1, 8, 8) in [0, 1] by set, and its outputs for these."""

    network: Classifier
    images: dict[str, Tensor]
    train: NetworkOutputs
    val: NetworkOutputs
    id_test: NetworkOutputs
    near: NetworkOutputs
    far: NetworkOutputs
    last_layer: LastLayer


def train_on_digits() -> TrainedDigits:
    """Train for seconds on 700 images, always to the same weights."""
    pixels, classes = load_digits(return_X_y=True)
    pictures = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(classes).long()
    is_id = labels < 6
    id_images, id_labels = pictures[is_id], labels[is_id]
    architecture = Architecture(
        network="small_cnn",
        width=12,
        class_names=tuple("012345"),
        image_shape=(1, 8, 8),
        mean=(0.3,),
        std=(0.4,),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(architecture)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(25):
            loss = torch.nn.functional.cross_entropy(network(id_images[:700]), id_labels[:700])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        noise = torch.rand(200, 1, 8, 8)
    network.eval().requires_grad_(False)
    images = {
        "train": id_images[:700],
        "val": id_images[700:850],
        "id_test": id_images[850:],
        "near": pictures[~is_id],
        "far": noise,
    }
    first_ids = dict(zip(images, (0, 700, 850, 5000, 9000), strict=True))

    def outputs(name: str) -> NetworkOutputs:
        num_images = len(images[name])
        with torch.no_grad():
            features = network.features(images[name])
            logits = network.logits(features)
        start = first_ids[name]
        of_set = id_labels[start : start + num_images] if start < 5000 else torch.full((num_images,), -1)
        return NetworkOutputs(features, logits, of_set, torch.arange(start, start + num_images))

    layer = network.last_layer
    return TrainedDigits(
        network=network,
        images=images,
        **{name: outputs(name) for name in images},
        last_layer=LastLayer(layer.weight, layer.bias),
    )
