"""The classifier: a network with its normalisation inside, so that pictures in [0, 1] are all it ever needs."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from sio_ray.classifier.networks import NETWORKS
from sio_ray.errors import CheckpointError
from sio_ray.imageset.pictures import UInt8Array


class Architecture(BaseModel):
    """All that is needed to build a classifier but its weights; what a checkpoint's JSON holds.

    Attributes:
        network: name in `NETWORKS`.
        width: channels of its first stage.
        class_names: name of class c at position c.
        image_shape: (C, H, W) that it was trained on.
        mean: per channel, of the training pixels in [0, 1].
        std: per channel, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    width: int = Field(ge=1)
    class_names: tuple[str, ...] = Field(min_length=1)
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        channels = self.image_shape[0]
        if not len(self.mean) == len(self.std) == channels or not min(self.std) > 0:
            raise ValueError(
                f"mean and std must have one value for each of {channels} channels, std greater than 0, "
                f"got {self.mean} and {self.std}"
            )
        return self


class Classifier(nn.Module):
    """Pictures in [0, 1] to features and logits.

    Args:
        architecture: what to build.

    Raises:
        CheckpointError: no network of that name.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        if architecture.network not in NETWORKS:
            raise CheckpointError(
                f"there is no network {architecture.network!r}; this version has {', '.join(NETWORKS)}, "
                "so use the version that wrote the checkpoint."
            )
        self.architecture = architecture
        channels = architecture.image_shape[0]
        self.network = NETWORKS[architecture.network](channels, len(architecture.class_names), architecture.width)
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, -1, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Features before the last layer, (B, D), of (B, C, H, W) in [0, 1]."""
        return self.network.features((images - self.mean) / self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of (B, C, H, W) in [0, 1]."""
        out: Tensor = self.network.fc(self.features(images))
        return out

    @property
    def last_layer(self) -> nn.Linear:
        """The layer that makes logits of features."""
        return self.network.fc


def pixel_statistics(images: UInt8Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels in [0, 1].

    Args:
        images: (N, C, H, W) uint8. A constant channel gets a standard deviation of 1 / 255, one grey level.
    """
    # From histograms, which is exact and needs no float copy of the set.
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.from_numpy(images[:, channel].reshape(-1)).to(torch.int64).bincount(minlength=256).double()
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
        means.append(mean.item())
        stds.append(max(variance.sqrt().item(), 1 / 255))
    return tuple(means), tuple(stds)
