"""The UNet fits the pictures of its set, has a null class, and says so where it cannot fit."""

from __future__ import annotations

import pytest
import torch

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.errors import ConfigError
from sio_ray.imageset import ImageSetInfo


@pytest.mark.parametrize(
    ("widths", "height_px", "width_px", "channels"),
    [((8,), 5, 7, 1), ((8, 16), 6, 10, 3), ((4, 8, 8), 8, 12, 1), ((12, 18), 4, 4, 3)],
)
@pytest.mark.parametrize("attention", [True, False])
def test_output_has_the_pictures_shape_and_every_class_and_the_null_class_is_taken(
    widths, height_px, width_px, channels, attention
):
    info = ImageSetInfo(class_names=("a", "b", "c"), height_px=height_px, width_px=width_px, channels=channels)
    config = FitGeneratorConfig(block_out_channels=widths, layers_per_block=1, attention=attention)
    unet = build_unet(config, info).eval()
    x = torch.randn(1, *info.image_shape).expand(4, -1, -1, -1)
    with torch.no_grad():
        F = unet(x, torch.zeros(4), class_labels=torch.tensor([0, 1, 2, info.num_classes])).sample
    assert F.shape == x.shape
    assert len({tuple(f.flatten().tolist()) for f in F}) == 4, (
        "every class, the null class too, has an embedding of its own"
    )


@pytest.mark.parametrize(
    ("widths", "height_px", "width_px", "channels"),
    [
        ((32, 64), 8, 8, 1),
        ((32, 64, 128), 28, 28, 1),
        ((128, 256, 256), 32, 32, 3),
        ((128, 256, 384, 512), 64, 64, 3),
        ((64, 64, 128, 128, 256, 256), 256, 256, 3),
        ((64, 64, 128, 128, 256, 256), 256, 160, 1),
    ],
)
def test_networks_of_the_usual_sizes_fit_the_usual_pictures(widths, height_px, width_px, channels):
    info = ImageSetInfo(
        class_names=tuple(map(str, range(10))), height_px=height_px, width_px=width_px, channels=channels
    )
    with torch.device("meta"):  # shapes without numbers
        unet = build_unet(FitGeneratorConfig(block_out_channels=widths), info)
        F = unet(torch.empty(2, *info.image_shape), torch.empty(2), class_labels=torch.zeros(2, dtype=torch.long))
    assert F.sample.shape == (2, *info.image_shape)
    assert unet.config.sample_size == (height_px, width_px)
    assert unet.config.num_class_embeds == 11


@pytest.mark.parametrize("attention", [True, False])
def test_attention_is_there_only_where_it_is_asked_for(info, attention):
    unet = build_unet(FitGeneratorConfig(block_out_channels=(8, 16), attention=attention), info)
    assert any("attention" in name for name, _ in unet.named_parameters()) is attention


def test_more_levels_than_the_picture_can_be_halved_are_refused():
    info = ImageSetInfo(class_names=("a",), height_px=28, width_px=20, channels=1)
    assert build_unet(FitGeneratorConfig(block_out_channels=(8, 8, 8), layers_per_block=1), info)
    with pytest.raises(ConfigError) as error:
        build_unet(FitGeneratorConfig(block_out_channels=(8, 8, 8, 8)), info)
    assert str(error.value) == (
        "fit_generator.block_out_channels must be of at most as many levels as 20x28 px can be halved, "
        "got (8, 8, 8, 8); drop a level, or give pictures whose sides divide by a higher power of two."
    )


@pytest.mark.parametrize("widths", [(0,), (8, -8)])
def test_a_level_without_channels_is_refused(info, widths):
    with pytest.raises(ConfigError) as error:
        build_unet(FitGeneratorConfig(block_out_channels=widths), info)
    assert str(error.value) == (
        f"fit_generator.block_out_channels must be of positive widths, got {widths}; give e.g. [32, 64]."
    )
