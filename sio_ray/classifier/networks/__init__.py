"""Networks, one file each: pictures to features; a new one is a file beside this one and a line in `NETWORKS`."""

from __future__ import annotations

from sio_ray.classifier.networks.densenet_32px import DenseNetFor32px
from sio_ray.classifier.networks.heads import HEADS, GODINHead, Head, build_head
from sio_ray.classifier.networks.network import Network
from sio_ray.classifier.networks.resnet18_32px import ResNet18For32px
from sio_ray.classifier.networks.resnet_224px import ResNet18For224px, ResNet50For224px
from sio_ray.classifier.networks.small_cnn import SmallCNN
from sio_ray.classifier.networks.vit_b_16 import ViTB16
from sio_ray.classifier.networks.wide_resnet_40_2 import WideResNet402
from sio_ray.errors import CheckpointError, ConfigError, did_you_mean

__all__ = ["HEADS", "NETWORKS", "GODINHead", "Head", "Network", "build_head", "build_network", "check_network"]

#: Name in the config to class; every class takes (image_shape, width).
NETWORKS: dict[str, type[Network]] = {
    "small_cnn": SmallCNN,
    "resnet18_32px": ResNet18For32px,
    "resnet18_64px": ResNet18For32px,
    "wide_resnet_40_2": WideResNet402,
    "densenet_32px": DenseNetFor32px,
    "resnet18_224px": ResNet18For224px,
    "resnet50_224px": ResNet50For224px,
    "vit_b_16": ViTB16,
}


def build_network(name: str, image_shape: tuple[int, int, int], width: int | None = None) -> Network:
    """Make a network, initialised from torch's global generator; under `torch.device("meta")` it takes no memory.

    Args:
        name: key of `NETWORKS`.
        image_shape: (C, H, W) of the pictures.
        width: channels of the first stage; the network's own if not given.

    Raises:
        CheckpointError: no network of that name, or it cannot take the pictures or the width.
    """
    if name not in NETWORKS:
        raise CheckpointError(
            f"there is no network {name!r}; this version has {', '.join(NETWORKS)}, "
            "so use the version that wrote the checkpoint."
        )
    network = NETWORKS[name]
    reason = network.refusal(image_shape) or (
        "has one width" if width is not None and network.default_width is None else None
    )
    if reason is not None:
        raise CheckpointError(
            f"there is no {name} of width {width} for pictures of {image_shape} (it {reason}); "
            "use the architecture.json that belongs to the weights."
        )
    return network(image_shape, width)


def check_network(
    name: str,
    width: int | None,
    pretrained: str | None,
    image_shape: tuple[int, int, int] | None,
    head: str = "linear",
) -> None:
    """Refuse what `train` could not build; cheap, no network is made.

    Args:
        name: `train.network`.
        width: `train.width`.
        pretrained: `train.pretrained`.
        image_shape: (C, H, W) that the network shall see; None where that is not known yet.
        head: of the training algorithm.

    Raises:
        ConfigError: one of them is unknown or does not suit the network.
    """
    if name not in NETWORKS:
        raise ConfigError("train.network", f"among {', '.join(NETWORKS)}", name, did_you_mean(name, NETWORKS))
    network = NETWORKS[name]
    if image_shape is not None and (reason := network.refusal(image_shape)):
        others = [other for other, cls in NETWORKS.items() if cls.refusal(image_shape) is None]
        raise ConfigError(
            "train.network",
            f"one for pictures of {image_shape[2]}x{image_shape[1]} px",
            name,
            f"it {reason}: " + (f"take one of {', '.join(others)}" if others else "prepare larger pictures"),
        )
    if width is not None and network.default_width is None:
        raise ConfigError("train.width", f"left out for {name}", width, "that network has one width")
    if pretrained is not None:
        if network.torchvision_name is None:
            some = ", ".join(other for other, cls in NETWORKS.items() if cls.torchvision_name)
            raise ConfigError(
                "train.pretrained", f"left out for {name}", pretrained, f"torchvision has weights for {some}"
            )
        from torchvision.models import get_model_weights  # takes seconds

        # Without DEFAULT, which is another one in each version of torchvision.
        names = [weights.name for weights in get_model_weights(network.torchvision_name)]
        if pretrained not in names:
            raise ConfigError("train.pretrained", f"among {', '.join(names)}", pretrained, "choose from these")
    if head not in HEADS:
        raise ConfigError("train.algorithm", f"one with a head among {', '.join(HEADS)}", head, "mend its `head`")
