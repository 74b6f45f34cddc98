"""A network of any kind as features and a last layer, checked once against its own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sio_ray.classifier.model import Architecture
from sio_ray.errors import BatchError, CheckpointError, EvaluationError

#: Largest difference of two logits that ought to be equal, over the largest logit.
_TOLERANCE = 1e-4


class ForeignNetwork(nn.Module):
    """Pictures in [0, 1] to features and logits; used as a `Classifier` is, in evaluation mode alone.

    Args:
        architecture: its network is the reference, which is no name in `NETWORKS`.
        body: normalised pictures to features.
        head: features to logits.

    Attributes:
        num_features: D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.architecture, self.body, self.head = architecture, body, head
        self.num_features = head.in_features
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, -1, 1, 1), persistent=False)

    @property
    def last_layer(self) -> nn.Linear:
        """The linear layer that makes logits of features."""
        return self.head

    def features(self, images: Tensor) -> Tensor:
        """What the last layer reads, (B, num_features), of (B, C, H, W) in [0, 1], of which it sees the centre."""
        out: Tensor = self.body(self.normalised(images))
        return out

    def logits(self, features: Tensor) -> Tensor:
        """Logits, (B, num_classes), of (B, num_features)."""
        out: Tensor = self.head(features)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of (B, C, H, W) in [0, 1]."""
        return self.logits(self.features(images))

    def normalised(self, images: Tensor) -> Tensor:
        """What the body reads, of (B, C, H, W) in [0, 1]."""
        (height, width), (stored_height, stored_width) = self.architecture.image_shape[1:], images.shape[-2:]
        if stored_height < height or stored_width < width:
            raise BatchError(
                f"pictures must be of {width}x{height} px or more, got {stored_width}x{stored_height}; give those "
                f"that {self.architecture.network} was trained on."
            )
        # Rounded as torchvision's CenterCrop does.
        top, left = round((stored_height - height) / 2), round((stored_width - width) / 2)
        return (images[..., top : top + height, left : left + width] - self.mean) / self.std


class StagedForeignNetwork(ForeignNetwork):
    """A `ForeignNetwork` with feature maps.

    Args:
        architecture: as for `ForeignNetwork`.
        body: likewise.
        head: likewise.
        maps: normalised pictures to what each stage gives.
    """

    resumable = False

    def __init__(
        self, architecture: Architecture, body: nn.Module, head: nn.Linear, maps: Callable[[Tensor], list[Tensor]]
    ) -> None:
        super().__init__(architecture, body, head)
        self._maps = maps

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What each stage gives, first to last, (B, C, H, W) each, of (B, C, H, W) in [0, 1]."""
        return self._maps(self.normalised(images))

    def features_from(self, maps: Tensor, num_left: int) -> Tensor:
        """There is no way to go on from maps.

        Raises:
            EvaluationError: always.
        """
        raise EvaluationError(
            f"features of {self.architecture.network} cannot be made of its feature maps; give it pictures."
        )


@torch.no_grad()
def wrap(
    model: nn.Module,
    architecture: Architecture,
    cut: Callable[[Any], tuple[nn.Module, Any]],
    maps: Callable[[Tensor], list[Tensor]] | None,
) -> ForeignNetwork:
    """Divide a network before its last layer, and see on two pictures of noise that this changes nothing.

    Args:
        model: normalised pictures to logits, with its weights; is changed.
        architecture: of the result.
        cut: the network to what makes features, and its last layer.
        maps: normalised pictures to what each stage gives; None if that is not known. What is no list of square maps
            is left out.

    Raises:
        CheckpointError: its logits are not what a linear layer makes of (B, D) features.
    """
    channels, height, width = architecture.image_shape
    noise = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    model.eval().requires_grad_(False)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (architecture.mean, architecture.std))
    expected = model((noise - mean) / std)
    body, head = cut(model)
    if not isinstance(head, nn.Linear) or not isinstance(expected, Tensor):
        raise _not_divisible(architecture, f"its last layer is {type(head).__name__}")
    if "bias" not in dict(head.named_parameters()):
        head.bias = nn.Parameter(torch.zeros(head.out_features), requires_grad=False)
    network = ForeignNetwork(architecture, body, head).eval()
    features = network.features(noise)
    if features.shape != (2, head.in_features):
        raise _not_divisible(architecture, f"its last layer reads {tuple(features.shape[1:])} per picture")
    logits = network.logits(features)
    if logits.shape != expected.shape or (logits - expected).abs().max() > _TOLERANCE * expected.abs().max():
        raise _not_divisible(architecture, "its last linear layer does not give its logits")
    if maps is None or not _are_maps(maps(network.normalised(noise))):
        return network
    return StagedForeignNetwork(architecture, body, head, maps).eval()


def _are_maps(maps: list[Tensor]) -> bool:
    """Whether they are (B, C, H, W) of square pictures; channels may stand last elsewhere."""
    return len(maps) > 1 and all(each.ndim == 4 and each.shape[2] == each.shape[3] for each in maps)


def _not_divisible(architecture: Architecture, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{architecture.network} must be features and one linear last layer, got another network ({reason}); "
        "compute features and logits yourself, and give these as evaluate.outputs."
    )
