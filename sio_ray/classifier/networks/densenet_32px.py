"""DenseNet-BC-100-12 for pictures of 32 px."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sio_ray.classifier.networks.network import Network

#: Of each of three stages; with two convolutions each, the stem, two transitions and the last layer: 100 layers.
_NUM_BLOCKS = 16


class _Block(nn.Module):
    """Adds `growth` channels to its input: a 1x1 bottleneck of 4 * growth channels, then a 3x3 convolution."""

    def __init__(self, num_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(num_in)
        self.conv1 = nn.Conv2d(num_in, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(out)))], 1)


class _Transition(nn.Module):
    """Half of the channels, and half of the side."""

    def __init__(self, num_in: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_in)
        self.conv = nn.Conv2d(num_in, num_in // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNetFor32px(Network):
    """DenseNet-BC of 100 layers, without dropout, as OOD papers use it; growth is width / 2 (12 at width 24).

    Source: Huang et al., arXiv:1608.06993, L = 100, k = 12: 342 features at width 24.
    """

    default_width = 24

    def __init__(self, image_shape: tuple[int, int, int], width: int | None = None) -> None:
        super().__init__(image_shape, width)
        width = width or self.default_width
        growth = width // 2
        self.conv1 = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)
        self.layer1 = self._layer(width, growth)
        num_out = width + _NUM_BLOCKS * growth
        self.transition1 = _Transition(num_out)
        self.layer2 = self._layer(num_out // 2, growth)
        num_out = num_out // 2 + _NUM_BLOCKS * growth
        self.transition2 = _Transition(num_out)
        self.layer3 = self._layer(num_out // 2, growth)
        self.num_features = num_out // 2 + _NUM_BLOCKS * growth
        self.bn = nn.BatchNorm2d(self.num_features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(num_in: int, growth: int) -> nn.Sequential:
        return nn.Sequential(*(_Block(num_in + i * growth, growth) for i in range(_NUM_BLOCKS)))

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """See `Network`."""
        return [
            self.conv1,
            lambda x: self.transition1(self.layer1(x)),
            lambda x: self.transition2(self.layer2(x)),
            lambda x: F.relu(self.bn(self.layer3(x))),
        ]
