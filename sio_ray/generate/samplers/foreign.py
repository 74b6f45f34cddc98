"""Draws with pipelines that diffusers brings: loads them, asks them, and looks at what they give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor

from sio_ray.config import GenerateConfig
from sio_ray.diffusion.schedulers import FOREIGN_SCHEDULERS
from sio_ray.errors import CheckpointError, GenerationError
from sio_ray.generate.generator import Generator
from sio_ray.generate.samplers.base import device_name, generators_of
from sio_ray.generate.samplers.pictures import (
    MIN_SHARE_OF_GREYS,
    constant,
    fit_to_set,
    not_finite,
    refuse_bad,
    to_uint8,
)
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.reading import reason_of

#: Left out where a pipeline has them: the safety checker puts black pictures in place of what it dislikes, and a
#: watermark would tell synthetic from real.
_LEFT_OUT = {"safety_checker": None, "requires_safety_checker": False, "add_watermarker": False, "watermarker": None}


class ForeignSampler:
    """Draws pictures with a pipeline of diffusers, asked in a way of its own for each class.

    Args:
        generator: what to load.
        config: what is asked for.
        info: of the set.
        device: `cpu` or `cuda`.
        ask: the pipeline's arguments that name the classes of (B,) labels.
    """

    def __init__(
        self,
        generator: Generator,
        config: GenerateConfig,
        info: ImageSetInfo,
        device: str,
        ask: Callable[[npt.NDArray[np.int64]], dict[str, Any]],
    ) -> None:
        self._pipeline = load_foreign(generator, config, device)
        self._generator, self._config, self._info, self._ask = generator, config, info, ask
        self._seeded: list[torch.Generator] = []
        self._seed_noise_of_steps()
        self.device_name = device_name(device)

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """See `Sampler`."""
        self._seeded = generators_of(seeds)
        pictures = self._pipeline(
            **self._ask(labels),
            generator=self._seeded,
            guidance_scale=self._config.guidance_scale,
            num_inference_steps=self._config.num_inference_steps,
            output_type="pt",
        ).images
        return finish(pictures, self._generator, self._config, self._info, labels, seeds)

    def _seed_noise_of_steps(self) -> None:
        """Give the scheduler each picture's generator where the pipeline, as DiTPipeline, gives it none.

        Otherwise one that adds noise in its steps (DDPM, SDE solvers) would draw that from torch's global state.
        """
        scheduler = self._pipeline.scheduler
        step = scheduler.step
        if "generator" not in inspect.signature(step).parameters:
            return

        @wraps(step)  # pipelines look at its signature
        def seeded_step(model_output: Tensor, *arguments: Any, **options: Any) -> Any:
            # With guidance, DiTPipeline steps every picture twice and drops the second one.
            generators = self._seeded * (len(model_output) // len(self._seeded))
            return step(model_output, *arguments, **{"generator": generators, **options})

        scheduler.step = seeded_step


def load_foreign(generator: Generator, config: GenerateConfig, device: str) -> Any:
    """Load a pipeline of diffusers: safetensors only, diffusers' own classes only.

    With `dtype: bfloat16` all but the VAE runs in it; the VAE stays in float32, as its errors go straight to pixels.

    Raises:
        CheckpointError: it does not load.
    """
    kind = getattr(diffusers, generator.pipeline_class)
    left_out = {name: _LEFT_OUT[name] for name in _LEFT_OUT.keys() & inspect.signature(kind.__init__).parameters.keys()}
    disable_progress_bar()
    try:
        pipeline = kind.from_pretrained(
            generator.location,
            revision=generator.revision,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            dtype={"default": getattr(torch, config.dtype), "vae": torch.float32},
            **left_out,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise CheckpointError(
            f"{generator.location} holds no {generator.pipeline_class} that loads ({reason_of(error)}); "
            "give generate.generator a folder that diffusers wrote with safetensors, whole."
        ) from error
    if config.scheduler is not None:
        pipeline.scheduler = FOREIGN_SCHEDULERS[config.scheduler].from_config(pipeline.scheduler.config)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    if config.dtype != "float32" and getattr(pipeline, "vae", None) is not None:
        _decode_in_float32(pipeline.vae)
    if config.compile:
        (getattr(pipeline, "transformer", None) or pipeline.unet).compile(dynamic=False)
    return pipeline


def _decode_in_float32(vae: Any) -> None:
    decode = vae.decode
    vae.decode = lambda latents, *args, **kwargs: decode(latents.float(), *args, **kwargs)


def finish(
    pictures: Tensor,
    generator: Generator,
    config: GenerateConfig,
    info: ImageSetInfo,
    labels: npt.NDArray[np.int64],
    seeds: Sequence[int],
) -> UInt8Array:
    """Refuse what is no picture, and bring the others to the set's shape.

    These pipelines clip inside, so what they overshoot by cannot be seen; blown out is a picture of black and white
    alone.

    Args:
        pictures: (B, C, H, W) in [0, 1].
        generator: what drew them.
        config: what was asked for.
        info: of the set.
        labels: (B,) of the pictures.
        seeds: one per picture.

    Raises:
        GenerationError: a picture is no picture, or of another shape than the set's and nothing says to resize it.
    """
    greys = ((pictures > 0) & (pictures < 1)).flatten(1).float().mean(1)
    refuse_bad(
        {
            "is not finite": not_finite(pictures),
            "is constant": constant(pictures),
            "is blown out to black and white": greys < MIN_SHARE_OF_GREYS,
        },
        labels,
        seeds,
        "lower generate.guidance_scale, or use another generate.scheduler, more generate.num_inference_steps or "
        "generate.dtype=float32",
    )
    if config.image_size_px is None and tuple(pictures.shape[1:]) != info.image_shape:
        raise GenerationError(
            f"{generator.location} draws pictures of shape {tuple(pictures.shape[1:])}, the set has "
            f"{info.image_shape}; set generate.image_size_px, so that they are resized."
        )
    return fit_to_set(to_uint8(pictures), info)
