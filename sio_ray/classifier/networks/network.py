"""What every network offers: pictures to feature maps, stage by stage, and to the features that a last layer reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class Network(nn.Module, ABC):
    """All of a classifier but its last layer. Weights are drawn from torch's global generator.

    Args:
        image_shape: (C, H, W) of the pictures.
        width: channels of the first stage; None for a network that has one width.

    Attributes:
        default_width: None if the network has one width.
        min_px: the smallest side of a picture.
        torchvision_name: of the same network in torchvision, whose pretrained weights fit; None if it has none.
        last_layer_name: what torchvision and OpenOOD call the last layer.
        num_features: D.
    """

    default_width: ClassVar[int | None] = None
    min_px: ClassVar[int] = 8
    torchvision_name: ClassVar[str | None] = None
    last_layer_name: ClassVar[str] = "fc"
    num_features: int

    @abstractmethod
    def __init__(self, image_shape: tuple[int, int, int], width: int | None) -> None:
        super().__init__()

    @abstractmethod
    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """The parts of the network, stem first; each reads what the one before gives."""

    @classmethod
    def refusal(cls, image_shape: tuple[int, int, int]) -> str | None:
        """Why the network cannot take pictures of (C, H, W); None if it can."""
        return f"needs at least {cls.min_px}x{cls.min_px} px" if min(image_shape[1:]) < cls.min_px else None

    def pool(self, last: Tensor) -> Tensor:
        """Features, (B, D), of what the last stage gives."""
        return F.adaptive_avg_pool2d(last, 1).flatten(1)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """What each stage gives, stem first: (B, C, H, W) each; the features are the mean of the last over places.

        Args:
            x: (B, C, H, W) float32, normalised.
        """
        maps = []
        for stage in self.stages():
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, x: Tensor) -> Tensor:
        """What a last layer reads, (B, D), of normalised pictures (B, C, H, W)."""
        for stage in self.stages():
            x = stage(x)
        return self.pool(x)
