"""A small convolutional network for pictures of 8 to 28 px that trains in seconds on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from sio_ray.classifier.networks.network import Network


def _stage(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU(inplace=True)
    )


class SmallCNN(Network):
    """Two stages of two 3x3 convolutions, max-pooled in between, then a mean over places; 4 * width features."""

    def __init__(self, channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _stage(channels, width),
            _stage(width, 2 * width),
            nn.MaxPool2d(2),
            _stage(2 * width, 4 * width),
            _stage(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(4 * width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """See `Network`."""
        out: Tensor = self.body(x)
        return out
