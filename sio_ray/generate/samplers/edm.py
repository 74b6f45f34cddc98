"""Draws with a `ClassConditionalEDMPipeline`, the generator that fit-generator writes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from diffusers import UNet2DModel
from torch import Tensor

from sio_ray.config import GenerateConfig
from sio_ray.diffusion.gaussian import GaussianDenoiser
from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.schedulers import EDM_SCHEDULERS
from sio_ray.errors import CheckpointError
from sio_ray.generate.generator import Generator
from sio_ray.generate.samplers.base import device_name, generators_of
from sio_ray.generate.samplers.pictures import constant, refuse_bad
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.reading import reason_of

#: The most that the values of a picture may lie outside [-1, 1] on average before they are clipped. How many are black
#: or white says nothing, as digits on black are so by nature. On the digits preset without clip_denoised, guidance of 1
#: overshoots by 0.01 (at the most 0.05) and of 4 by 0.03 (0.10), both clean; of 16 by 0.19 (0.35), and of 40 by 0.79
#: (1.08), where no grey is left.
MAX_OVERSHOOT = 0.25

#: The same for D, on average over all steps: with clip_denoised the last one overshoots no more, however strong the
#: guidance. On the digits preset with it, guidance of 4 overshoots by 0.17 and of 8 by 0.5, both clean; of 16 by 1.3,
#: where strokes break, and of 40 by 4.0, where digits are lost.
MAX_MEAN_OVERSHOOT = 1.0

_DENOISERS = {"UNet2DModel": UNet2DModel, "GaussianDenoiser": GaussianDenoiser}


class EDMSampler:
    """Draws pictures with a saved `ClassConditionalEDMPipeline`.

    With `dtype: bfloat16` the network runs in it; noise levels, preconditioning and scheduler stay in float32.
    """

    def __init__(self, generator: Generator, config: GenerateConfig, info: ImageSetInfo, device: str) -> None:
        self._pipeline = load_pipeline(generator, getattr(torch, config.dtype)).to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        is_gpu = device.startswith("cuda")
        if is_gpu:
            self._pipeline.unet.to(memory_format=torch.channels_last)
        if config.compile:
            # As a CUDA graph: a small network waits for launches most. What it gives is read before it is called again.
            self._pipeline.unet.compile(dynamic=False, mode="reduce-overhead" if is_gpu else "default")
        self._config = config
        self._class_ids = np.array(config.class_ids or range(info.num_classes))
        self.device_name = device_name(device)

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """See `Sampler`."""
        config = self._config
        overshoots: list[Tensor] = []
        raw = self._pipeline(
            class_labels=self._class_ids[labels],
            generator=generators_of(seeds),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            guidance_interval=config.guidance_interval,
            clip_denoised=config.clip_denoised,
            scheduler=config.scheduler,
            clamp=False,
            # Without guidance, D is what the network has learned of pictures, so this costs its time for nothing.
            watch=None if config.guidance_scale == 1 else lambda D: overshoots.append(_overshoot(D)),
        )
        pictures = raw.clamp(-1, 1)
        overshoot = _overshoot(raw)
        over_all_steps = torch.stack(overshoots).mean(0).cpu() if overshoots else torch.zeros_like(overshoot)
        pictures = pictures.add_(1).mul_(127.5).round_().to(torch.uint8)
        refuse_bad(
            {
                "is not finite": ~overshoot.isfinite(),  # as one value that is not makes its mean
                f"is blown out (its values overshoot by more than {MAX_OVERSHOOT} on average)": (
                    overshoot > MAX_OVERSHOOT
                ),
                f"is blown out (its steps overshoot by more than {MAX_MEAN_OVERSHOOT:g} on average)": (
                    over_all_steps > MAX_MEAN_OVERSHOOT
                ),
                "is constant": constant(pictures),
            },
            labels,
            seeds,
            "lower generate.guidance_scale or narrow generate.guidance_interval, keep generate.clip_denoised on, take "
            "more generate.num_inference_steps, and if that does not help look at the generator's loss curve",
        )
        images: UInt8Array = pictures.numpy()
        return images


def _overshoot(D: Tensor) -> Tensor:
    """(B,) how far the values of (B, C, H, W) lie outside [-1, 1], on average."""
    return (D - D.clamp(-1, 1)).abs_().flatten(1).mean(1)


def load_pipeline(generator: Generator, dtype: torch.dtype = torch.float32) -> ClassConditionalEDMPipeline:
    """Load a saved pipeline: safetensors only, classes of two short lists only.

    Raises:
        CheckpointError: its weights or its scheduler do not load.
    """
    saved = json.loads(generator.scheduler)
    scheduler = next((kind for kind in EDM_SCHEDULERS.values() if kind.__name__ == saved.get("_class_name")), None)
    place = {"revision": generator.revision, "subfolder": "unet"}
    try:
        if scheduler is None:
            raise ValueError(f"its scheduler is a {saved.get('_class_name')}, none of EDM's")
        kind = UNet2DModel.load_config(generator.location, **place)["_class_name"]
        if kind not in _DENOISERS:
            raise ValueError(f"its network is a {kind}, none of {', '.join(_DENOISERS)}")
        unet = _DENOISERS[kind].from_pretrained(
            generator.location, use_safetensors=True, low_cpu_mem_usage=False, dtype=dtype, **place
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{generator.location} holds no {generator.pipeline_class} that loads ({reason_of(error)}); "
            "give generate.generator a folder that fit-generator wrote."
        ) from error
    names = None if generator.class_names is None else list(generator.class_names)
    return ClassConditionalEDMPipeline(unet.eval(), scheduler.from_config(saved), names)
