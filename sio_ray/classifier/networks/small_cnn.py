"""A small convolutional network for pictures of 8 to 28 px that trains in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sio_ray.classifier.networks.network import Network


def _stage(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU(inplace=True)
    )


class SmallCNN(Network):
    """Two stages of two 3x3 convolutions, max-pooled in between, then a mean over places; 4 * width features."""

    default_width = 32
    min_px = 4

    def __init__(self, image_shape: tuple[int, int, int], width: int | None = None) -> None:
        super().__init__(image_shape, width)
        width = width or self.default_width
        self.body = nn.Sequential(
            _stage(image_shape[0], width),
            _stage(width, 2 * width),
            nn.MaxPool2d(2),
            _stage(2 * width, 4 * width),
            _stage(4 * width, 4 * width),
        )
        self.num_features = 4 * width

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """See `Network`."""
        first, second, halve, third, last = self.body
        return [first, second, lambda x: third(halve(x)), last]
