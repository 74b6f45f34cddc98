"""ResNet-18 and ResNet-50 for pictures of 224 px, of torchvision's modules and with its parameter names."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from sio_ray.classifier.networks.network import Network


class _ResNetFor224px(Network):
    """A ResNet with a 7x7 stem of stride 2, max-pooled; initialised as torchvision does it.

    Source: He et al., arXiv:1512.03385.
    """

    min_px = 32
    torchvision_name: ClassVar[str]
    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    relu: nn.ReLU
    maxpool: nn.MaxPool2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, image_shape: tuple[int, int, int], width: int | None = None) -> None:
        from torchvision.models import get_model  # takes seconds

        super().__init__(image_shape, width)
        theirs = get_model(self.torchvision_name)
        for name, child in theirs.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)
        if image_shape[0] != self.conv1.in_channels:
            self.conv1 = nn.Conv2d(image_shape[0], 64, 7, 2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.num_features = theirs.fc.in_features

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """See `Network`."""
        return [self._stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def _stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return out


class ResNet18For224px(_ResNetFor224px):
    """512 features."""

    torchvision_name = "resnet18"


class ResNet50For224px(_ResNetFor224px):
    """2048 features."""

    torchvision_name = "resnet50"
