"""Draws the same few pictures time and again while the generator trains, so that people can see it learn."""

from __future__ import annotations

import io

import numpy as np
import torch
from diffusers import UNet2DModel

from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.schedulers import EDM_SCHEDULERS
from sio_ray.imageset.contact_sheet import contact_sheet
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.imageset.storage import Folder
from sio_ray.seeding import torch_generator

PREVIEWS_NAME = "previews"

_MAX_CLASSES = 10
_PICTURES_PER_CLASS = 4
_NUM_INFERENCE_STEPS = 18


def write_preview(
    folder: Folder, step: int, unet: UNet2DModel, sigma_data: float, class_names: tuple[str, ...]
) -> None:
    """Write `previews/step-000200.png`: pictures drawn with the weights of a step, one row per class.

    Args:
        folder: of the stage.
        step: optimiser steps done.
        unet: what to draw with, in eval mode.
        sigma_data: standard deviation of the training pixels in [-1, 1].
        class_names: of the training set.

    Raises:
        ResourceError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    contact_sheet(draw_preview(unet, sigma_data, class_names)).save(buffer, format="PNG")
    folder.write_bytes(f"{PREVIEWS_NAME}/step-{step:06d}.png", buffer.getvalue())


def draw_preview(unet: UNet2DModel, sigma_data: float, class_names: tuple[str, ...]) -> list[tuple[str, UInt8Array]]:
    """Draw without guidance four pictures, (4, C, H, W), of each of at most ten classes, evenly spread over all.

    Classes and seeds are the same every time, and no global random state is used. One class after the other, as the
    device's memory holds a network in training too.
    """
    pipeline = ClassConditionalEDMPipeline(
        unet, EDM_SCHEDULERS["edm_dpmsolver_multistep"](sigma_data=sigma_data), class_names=list(class_names)
    )
    pipeline.set_progress_bar_config(disable=True)
    shown = np.linspace(0, len(class_names) - 1, min(_MAX_CLASSES, len(class_names))).round().astype(int)
    rows = []
    for label in shown.tolist():
        pictures = pipeline(
            [label] * _PICTURES_PER_CLASS,
            [torch_generator("preview", label, column) for column in range(_PICTURES_PER_CLASS)],
            num_inference_steps=_NUM_INFERENCE_STEPS,
            clip_denoised=True,
        )
        rows.append((class_names[label], ((pictures + 1) * 127.5).round().to(torch.uint8).numpy()))
    return rows
