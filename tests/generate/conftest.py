"""Fixtures of the generation tests: a tiny set and a tiny saved generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from saved_generator import save

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.imageset import ImageSetInfo

torch.set_num_threads(1)


@pytest.fixture
def info() -> ImageSetInfo:
    return ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=1)


@pytest.fixture
def unet(info: ImageSetInfo) -> UNet2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_unet(FitGeneratorConfig(block_out_channels=(8, 16), layers_per_block=1), info).eval()


@pytest.fixture
def generator_folder(unet: UNet2DModel, tmp_path: Path) -> Path:
    return save(tmp_path / "model", unet)
