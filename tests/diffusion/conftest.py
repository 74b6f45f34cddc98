"""Fixtures of the diffusion tests: a tiny training set and a tiny UNet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.imageset import ImageArrays, ImageSetInfo

torch.set_num_threads(1)


@pytest.fixture
def info() -> ImageSetInfo:
    return ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=1)


@pytest.fixture
def config() -> FitGeneratorConfig:
    return FitGeneratorConfig(
        block_out_channels=(8, 16), layers_per_block=1, global_batch_size=6, warmup_steps=3, label_dropout=0.3
    )


@pytest.fixture
def unet(config: FitGeneratorConfig, info: ImageSetInfo) -> UNet2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_unet(config, info).eval()


@pytest.fixture
def images() -> ImageArrays:
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 3
    pictures = rng.integers(0, 100, (20, 1, 8, 8)) + 70 * labels[:, None, None, None]
    return ImageArrays(pictures.astype(np.uint8), labels, np.arange(20))
