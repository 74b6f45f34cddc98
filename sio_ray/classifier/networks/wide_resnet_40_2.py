"""WideResNet-40-2 for pictures of 32 px."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sio_ray.classifier.networks.network import Network

#: Of each of three stages; with two convolutions each, the stem and three shortcuts: 40 layers.
_NUM_BLOCKS = 6


class _Block(nn.Module):
    """Normalisation and ReLU before each of two 3x3 convolutions; a new width has its shortcut after the first ReLU."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(num_in)
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.shortcut = None if num_in == num_out else nn.Conv2d(num_in, num_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet402(Network):
    """WRN-40-2 without dropout; 4 * width features (128 at width 32).

    Source: Zagoruyko and Komodakis, arXiv:1605.07146; widths 32, 64, 128 are its widening factor 2.
    """

    default_width = 32

    def __init__(self, image_shape: tuple[int, int, int], width: int | None = None) -> None:
        super().__init__(image_shape, width)
        width = width or self.default_width
        self.conv1 = nn.Conv2d(image_shape[0], width // 2, 3, padding=1, bias=False)
        self.layer1 = self._layer(width // 2, width, 1)
        self.layer2 = self._layer(width, 2 * width, 2)
        self.layer3 = self._layer(2 * width, 4 * width, 2)
        self.bn = nn.BatchNorm2d(4 * width)
        self.num_features = 4 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(num_in: int, num_out: int, stride: int) -> nn.Sequential:
        blocks = [_Block(num_out, num_out, 1) for _ in range(_NUM_BLOCKS - 1)]
        return nn.Sequential(_Block(num_in, num_out, stride), *blocks)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """See `Network`."""
        return [self.conv1, self.layer1, self.layer2, self._last]

    def _last(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.layer3(x)))
