"""One small trained network: realistic features, not random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sio_ray.ood.detectors.odin import ODIN, perturb
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Mean and standard deviation that normalise digits in [0, 1].
MEAN, STD = 0.3, 0.4


@dataclass
class TrainedDigits:
    """A network for digits 0 to 5, its inputs, and its outputs."""

    network: nn.Module
    id_images: Tensor
    train: NetworkOutputs
    id_test: NetworkOutputs
    near: NetworkOutputs
    far: NetworkOutputs
    last_layer: LastLayer


def _extract(network: nn.Sequential, images: Tensor, labels: Tensor, first_id: int) -> NetworkOutputs:
    perturbed = perturb(images, network, std=[STD], temperature=ODIN().temperature, epsilon=ODIN().epsilon)
    with torch.inference_mode():
        features = network[:-1](images)
        logits = network[-1](features)
        perturbed_logits = network(perturbed)
    return NetworkOutputs(features, logits, labels, torch.arange(first_id, first_id + len(images)), perturbed_logits)


def train_on_digits() -> TrainedDigits:
    """Train for a second on 800 images, always to the same weights."""
    pixels, classes = load_digits(return_X_y=True)
    images = (torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16 - MEAN) / STD
    labels = torch.from_numpy(classes).long()
    is_id = labels < 6
    id_images, id_labels = images[is_id], labels[is_id]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 6)
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(60):
            loss = nn.functional.cross_entropy(network(id_images[:800]), id_labels[:800])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        noise = torch.randn(200, 1, 8, 8)
    network.eval().requires_grad_(False)
    num_near = int((~is_id).sum())
    return TrainedDigits(
        network=network,
        id_images=id_images,
        train=_extract(network, id_images[:800], id_labels[:800], 0),
        id_test=_extract(network, id_images[800:], id_labels[800:], 800),
        near=_extract(network, images[~is_id], torch.full((num_near,), -1), 5000),
        far=_extract(network, noise, torch.full((200,), -1), 9000),
        last_layer=LastLayer(network[-1].weight, network[-1].bias),
    )
