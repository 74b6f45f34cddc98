"""Builds the denoiser: diffusers' `UNet2DModel` with one class more, the null class of guidance."""

from __future__ import annotations

import math

from diffusers import UNet2DModel

from sio_ray.config import FitGeneratorConfig
from sio_ray.errors import ConfigError
from sio_ray.imageset import ImageSetInfo


def build_unet(config: FitGeneratorConfig, info: ImageSetInfo) -> UNet2DModel:
    """Build a randomly initialised UNet for the pictures of a set.

    Args:
        config: widths and depth.
        info: shape and classes of the training set. Class index `info.num_classes` is the null class.

    Raises:
        ConfigError: a level without channels, or more levels than the picture can be halved.
    """
    widths = config.block_out_channels
    if min(widths) < 1:
        raise ConfigError("fit_generator.block_out_channels", "of positive widths", widths, "give e.g. [32, 64]")
    halvings = len(widths) - 1
    if info.height_px % 2**halvings or info.width_px % 2**halvings:
        raise ConfigError(
            "fit_generator.block_out_channels",
            f"of at most as many levels as {info.width_px}x{info.height_px} px can be halved",
            widths,
            "drop a level, or give pictures whose sides divide by a higher power of two",
        )
    plain = halvings if config.attention else len(widths)
    return UNet2DModel(
        sample_size=(info.height_px, info.width_px),
        in_channels=info.channels,
        out_channels=info.channels,
        block_out_channels=widths,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * (len(widths) - plain),
        up_block_types=("AttnUpBlock2D",) * (len(widths) - plain) + ("UpBlock2D",) * plain,
        add_attention=config.attention,  # of the middle block
        norm_num_groups=math.gcd(8, *widths),
        attention_head_dim=math.gcd(32, widths[-1]),
        num_class_embeds=info.num_classes + 1,
    )
