"""What every network offers: features before a linear last layer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A classifier network.

    Attributes:
        fc: the last layer, (num_features -> num_classes); detectors read its weight and bias.
    """

    fc: nn.Linear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Features before the last layer.

        Args:
            x: (B, C, H, W) float32, normalised.

        Returns:
            (B, num_features) float32.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, num_classes), of normalised pictures (B, C, H, W)."""
        logits: Tensor = self.fc(self.features(x))
        return logits
