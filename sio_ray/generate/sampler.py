"""The sampler: labels and seeds in, uint8 pictures out, by way of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers.utils.logging import disable_progress_bar

from sio_ray.config import GenerateConfig
from sio_ray.diffusion.pipeline import SCHEDULERS, ClassConditionalEDMPipeline
from sio_ray.errors import CheckpointError, GenerationError
from sio_ray.imageset.pictures import UInt8Array


class PipelineSampler:
    """Draws pictures with a saved `ClassConditionalEDMPipeline`.

    Args:
        folder: the diffusers folder that fit-generator wrote.
        config: scheduler, steps and guidance.
        device: where the UNet runs. Noise is drawn on the CPU, so it is the same on any device.

    Raises:
        CheckpointError: the folder holds no such pipeline.
    """

    def __init__(self, folder: str | Path, config: GenerateConfig, device: str = "cpu") -> None:
        pipeline = load_pipeline(folder)
        scheduler = SCHEDULERS[config.scheduler].from_config(pipeline.scheduler.config)
        self._pipeline = ClassConditionalEDMPipeline(pipeline.unet, scheduler).to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._steps, self._guidance_scale = config.num_inference_steps, config.guidance_scale

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """Draw one picture per label and seed.

        Returns:
            (B, C, H, W) uint8.

        Raises:
            GenerationError: a pixel is not finite, or a picture is constant; the label and seed are named.
        """
        pictures = self._pipeline(
            class_labels=labels.tolist(),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=self._steps,
            guidance_scale=self._guidance_scale,
        )
        flat = pictures.flatten(1)
        bad = ~flat.isfinite().all(1) | (flat.amax(1) == flat.amin(1))
        if bad.any():
            first = int(bad.nonzero()[0])
            raise GenerationError(
                f"the picture of label {labels[first]}, seed {seeds[first]} is constant or not finite; "
                "look at the generator's loss curve, or use another scheduler or a lower generate.guidance_scale."
            )
        images: UInt8Array = ((pictures + 1) * 127.5).round().to(torch.uint8).numpy()
        return images


def load_pipeline(folder: str | Path) -> ClassConditionalEDMPipeline:
    """Load a saved pipeline: safetensors only, no code from the folder is run.

    Raises:
        CheckpointError: the folder holds no such pipeline.
    """
    if not (Path(folder) / "model_index.json").is_file():
        raise CheckpointError(
            f"{folder} is no diffusers folder (it has no model_index.json); "
            "run `sio-ray fit-generator`, or give generate.generator a folder that it wrote."
        )
    try:
        disable_progress_bar()  # diffusers' bar for two files
        pipeline = ClassConditionalEDMPipeline.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} holds no ClassConditionalEDMPipeline that loads ({str(error).splitlines()[0]}); "
            "give generate.generator a folder that fit-generator wrote."
        ) from error
    if not isinstance(pipeline, ClassConditionalEDMPipeline) or pipeline.unet.config.num_class_embeds is None:
        raise CheckpointError(
            f"the UNet in {folder} takes no class; "
            "give generate.generator a class-conditional one, as fit-generator writes."
        )
    return pipeline
