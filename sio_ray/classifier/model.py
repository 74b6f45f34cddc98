"""The classifier: a network with its normalisation inside, so that pictures in [0, 1] are all it ever needs."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from sio_ray.classifier.networks import Head, Network, build_head, build_network
from sio_ray.classifier.pretrained import load_pretrained
from sio_ray.errors import BatchError, EvaluationError


class Architecture(BaseModel):
    """All that is needed to build a classifier but its weights; what a checkpoint's JSON holds.

    Attributes:
        network: name in `NETWORKS`.
        width: channels of its first stage; the network's own if None.
        head: its last layer, a name in `HEADS`.
        class_names: name of class c at position c.
        image_shape: (C, H, W) that the network sees; stored pictures may be larger.
        mean: per channel, of the training pixels in [0, 1].
        std: per channel, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    width: int | None = Field(None, ge=1)
    head: Head = "linear"
    class_names: tuple[str, ...] = Field(min_length=1)
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        channels = self.image_shape[0]
        if min(self.image_shape) < 1:
            raise ValueError(f"image_shape must be of positive numbers, got {self.image_shape}")
        if not len(self.mean) == len(self.std) == channels or not min(self.std) > 0:
            raise ValueError(
                f"mean and std must have one value for each of {channels} channels, std greater than 0, "
                f"got {self.mean} and {self.std}"
            )
        return self

    def suits(self, class_names: tuple[str, ...], image_shape: tuple[int, int, int]) -> bool:
        """Whether a classifier is for a set of these classes and of stored pictures of (C, H, W)."""
        channels, height, width = image_shape
        seen = self.image_shape
        return class_names == self.class_names and channels == seen[0] and height >= seen[1] and width >= seen[2]


class Classifier(nn.Module):
    """Pictures in [0, 1] to features and logits.

    In evaluation mode pictures may be larger than the network's: their centre is cropped, so that stored pictures are
    all that anybody gives it. In training mode the feed crops, at random, and other sizes are refused.

    Args:
        architecture: what to build; weights are drawn from torch's global generator.
        pretrained: torchvision's weights to start from, as `check_network` knows; see `load_pretrained`.

    Attributes:
        network: all but the last layer.
        head: the last layer, features to logits.
        new_tensors: names of the weights that did not come from `pretrained`.

    Raises:
        CheckpointError: no network of that name, or none for such pictures; pretrained weights that are not to be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture, *, pretrained: str | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.network = build_network(architecture.network, architecture.image_shape, architecture.width)
        self.head = build_head(architecture.head, self.network.num_features, len(architecture.class_names))
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, -1, 1, 1), persistent=False)
        self.new_tensors = list(self.state_dict()) if pretrained is None else load_pretrained(self, pretrained)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer reads, (B, num_features), of (B, C, H, W) in [0, 1]."""
        return self.network.features(self._normalised(images))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What each stage of the network gives, first to last, (B, C, H, W) each, of (B, C, H, W) in [0, 1]."""
        return self.network.feature_maps(self._normalised(images))

    @property
    def resumable(self) -> bool:
        """Whether maps are all that the next stage reads; a transformer's lack the class token."""
        return type(self.network).feature_maps is Network.feature_maps

    def features_from(self, maps: Tensor, num_left: int) -> Tensor:
        """What the last layer reads, (B, num_features), of the maps of a stage that `num_left` stages follow.

        Raises:
            EvaluationError: the network is not `resumable`.
        """
        if not self.resumable:
            raise EvaluationError(
                f"features of {self.architecture.network} cannot be made of its feature maps; give it pictures."
            )
        stages = self.network.stages()
        for stage in stages[len(stages) - num_left :]:
            maps = stage(maps)
        return self.network.pool(maps)

    def logits(self, features: Tensor) -> Tensor:
        """Logits, (B, num_classes), of (B, num_features)."""
        out: Tensor = self.head(features)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of (B, C, H, W) in [0, 1]."""
        return self.logits(self.features(images))

    @property
    def num_features(self) -> int:
        """D."""
        return self.network.num_features

    @property
    def last_layer(self) -> nn.Linear:
        """The linear layer that makes logits of features.

        Raises:
            EvaluationError: the head is another one.
        """
        if not isinstance(self.head, nn.Linear):
            raise no_last_layer(f"a classifier with the head {self.architecture.head}")
        return self.head

    def _normalised(self, images: Tensor) -> Tensor:
        return (self._centre(images) - self.mean) / self.std

    def _centre(self, images: Tensor) -> Tensor:
        (height, width), (stored_height, stored_width) = self.architecture.image_shape[1:], images.shape[-2:]
        if (height, width) == (stored_height, stored_width):
            return images
        if self.training or stored_height < height or stored_width < width:
            raise BatchError(
                f"pictures must be of {width}x{height} px{'' if self.training else ' or more'}, "
                f"got {stored_width}x{stored_height}; give pictures as the classifier was trained on."
            )
        # Rounded as torchvision's CenterCrop does.
        top, left = round((stored_height - height) / 2), round((stored_width - width) / 2)
        return images[..., top : top + height, left : left + width]


def no_last_layer(what: str) -> EvaluationError:
    """The error of a detector that reads weights which a network does not have."""
    return EvaluationError(
        f"{what} has no linear last layer for a detector to read; leave out the detectors that need one, such as vim."
    )
