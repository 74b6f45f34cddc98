"""Draws with a `DiTPipeline`, class-conditional latent diffusion (Peebles and Xie, arXiv:2212.09748)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sio_ray.config import GenerateConfig
from sio_ray.generate.generator import Generator
from sio_ray.generate.samplers.base import device_name
from sio_ray.generate.samplers.foreign import finish, generators_of, load_foreign
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pictures import UInt8Array


class DiTSampler:
    """Draws pictures by the generator's own class ids."""

    def __init__(self, generator: Generator, config: GenerateConfig, info: ImageSetInfo, device: str) -> None:
        self._pipeline = load_foreign(generator, config, device)
        self._generator, self._config, self._info = generator, config, info
        self._class_ids = np.array(config.class_ids or range(info.num_classes))
        self.device_name = device_name(device)

    def sample(self, labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> UInt8Array:
        """See `Sampler`."""
        pictures = self._pipeline(
            class_labels=self._class_ids[labels].tolist(),
            generator=generators_of(seeds),
            guidance_scale=self._config.guidance_scale,
            num_inference_steps=self._config.num_inference_steps,
            output_type="pt",
        ).images
        return finish(pictures, self._generator, self._config, self._info, labels, seeds)
