"""Saves a UNet as the folder that fit-generator would write."""

from __future__ import annotations

from pathlib import Path

from diffusers import EDMDPMSolverMultistepScheduler, UNet2DModel

from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline

#: Not the 0.5 that diffusers assumes, so that forgetting it shows.
SIGMA_DATA = 0.4


def save(folder: Path, unet: UNet2DModel) -> Path:
    """Save and return the folder."""
    pipeline = ClassConditionalEDMPipeline(unet, EDMDPMSolverMultistepScheduler(sigma_data=SIGMA_DATA))
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder
