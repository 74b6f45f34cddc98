"""Draws with a text-to-image pipeline of diffusers: one prompt per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sio_ray.config import GenerateConfig
from sio_ray.generate.generator import Generator
from sio_ray.generate.samplers.base import device_name
from sio_ray.generate.samplers.foreign import finish, generators_of, load_foreign
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pictures import UInt8Array


class TextToImageSampler:
    """Draws pictures by the names of the set's classes."""

    def __init__(self, generator: Generator, config: GenerateConfig, info: ImageSetInfo, device: str) -> None:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of each text encoder's weights
        self._pipeline = load_foreign(generator, config, device)
        self._generator, self._config, self._info = generator, config, info
        self._prompts = [config.prompt.format(class_name=name) for name in info.class_names]
        self.device_name = device_name(device)

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """See `Sampler`."""
        options: dict[str, Any] = {}
        if self._config.negative_prompt is not None:
            options["negative_prompt"] = [self._config.negative_prompt] * len(labels)
        if self._generator.image_shape is not None:
            options["height"], options["width"] = self._generator.image_shape[1:]
        pictures = self._pipeline(
            prompt=[self._prompts[label] for label in labels],
            generator=generators_of(seeds),
            guidance_scale=self._config.guidance_scale,
            num_inference_steps=self._config.num_inference_steps,
            output_type="pt",
            **options,
        ).images
        return finish(pictures, self._generator, self._config, self._info, labels, seeds)
