"""Runs a network over an image set once, and keeps what detectors need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from sio_ray.errors import EvaluationError
from sio_ray.imageset import ImageArrays
from sio_ray.ood.detectors.odin import perturb
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class FeatureNetwork(Protocol):
    """A classifier or an ensemble in evaluation mode, which takes pictures in [0, 1]."""

    @property
    def last_layer(self) -> nn.Linear:
        """Makes logits of features; an `EvaluationError` where that is no linear layer."""

    def features(self, images: Tensor) -> Tensor:
        """Input of the last layer, (B, D)."""

    def logits(self, features: Tensor) -> Tensor:
        """What the last layer makes of features, (B, num_classes)."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights; they are all on one device."""


def extract(
    network: FeatureNetwork, arrays: ImageArrays, *, batch_size: int, needs: frozenset[str], where: str
) -> NetworkOutputs:
    """Features and logits of every image, and the logits after ODIN's step where a detector needs them.

    Args:
        network: on the device to run on.
        arrays: the images.
        batch_size: images per pass.
        needs: union of the detectors' needs.
        where: what to call the set in an error.

    Returns:
        Outputs on the CPU.

    Raises:
        EvaluationError: a feature or logit is not finite; the image is named. Or a detector needs a linear last layer
            that the network does not have.
    """
    if "last_layer" in needs:
        _ = network.last_layer  # an error now, and not after hours of passes
    device = next(network.parameters()).device
    features, logits, perturbed = [], [], []

    def logits_of(images: Tensor) -> Tensor:
        return network.logits(network.features(images))

    with torch.no_grad():
        for start in range(0, len(arrays), batch_size):
            images = torch.from_numpy(arrays.images[start : start + batch_size]).to(device).float() / 255
            of_batch = network.features(images)
            features.append(of_batch.cpu())
            logits.append(network.logits(of_batch).cpu())
            if "perturbed_logits" in needs:
                # Pixels are in [0, 1] and the network normalises them itself: a std of 1 is OpenOOD's epsilon / std.
                moved = perturb(images, logits_of, std=[1.0] * images.shape[1])
                perturbed.append(logits_of(moved).cpu())
    outputs = NetworkOutputs(
        features=torch.cat(features),
        logits=torch.cat(logits),
        labels=torch.from_numpy(arrays.labels),
        image_ids=torch.from_numpy(arrays.image_ids),
        perturbed_logits=torch.cat(perturbed) if perturbed else None,
    )
    broken = ~(outputs.features.isfinite().all(1) & outputs.logits.isfinite().all(1))
    if broken.any():
        image_id = int(outputs.image_ids[broken.nonzero()[0, 0]])
        raise EvaluationError(
            f"the network's features or logits of image_id {image_id} of {where} are not finite; "
            "train the checkpoint again."
        )
    return outputs


def last_layer_of(network: FeatureNetwork) -> LastLayer | None:
    """The last layer's weight and bias, on the CPU; None where it is not linear."""
    try:
        layer = network.last_layer
    except EvaluationError:
        return None
    return LastLayer(layer.weight.detach().cpu(), layer.bias.detach().cpu())
