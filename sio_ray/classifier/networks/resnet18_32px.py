"""ResNet-18 for pictures of 32 and 64 px: a 3x3 stem, no max-pool, parameter names as OpenOOD has them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sio_ray.classifier.networks.network import Network


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., arXiv:1512.03385)."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        same = stride == 1 and num_in == num_out
        self.shortcut = (
            nn.Sequential()
            if same
            else nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18For32px(Network):
    """ResNet-18 as CIFAR papers use it; 8 * width features (512 at width 64).

    OpenOOD's ResNet18_64x64 has the same tensors and differs in nothing but the size of its mean over places, so it is
    this network too. Convolutions are initialised as PyTorch does it, as in OpenOOD.
    """

    default_width = 64

    def __init__(self, image_shape: tuple[int, int, int], width: int | None = None) -> None:
        super().__init__(image_shape, width)
        width = width or self.default_width
        self.conv1 = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._layer(width, width, 1)
        self.layer2 = self._layer(width, 2 * width, 2)
        self.layer3 = self._layer(2 * width, 4 * width, 2)
        self.layer4 = self._layer(4 * width, 8 * width, 2)
        self.num_features = 8 * width

    @staticmethod
    def _layer(num_in: int, num_out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(_Block(num_in, num_out, stride), _Block(num_out, num_out, 1))

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """See `Network`."""
        return [self._stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))
