"""Draws with a `DiTPipeline`, class-conditional latent diffusion (Peebles and Xie, arXiv:2212.09748)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sio_ray.config import GenerateConfig
from sio_ray.generate.generator import Generator
from sio_ray.generate.samplers.foreign import ForeignSampler
from sio_ray.imageset import ImageSetInfo


def open_dit(generator: Generator, config: GenerateConfig, info: ImageSetInfo, device: str) -> ForeignSampler:
    """A sampler that asks for the generator's own class ids."""
    class_ids = np.array(config.class_ids or range(info.num_classes))

    def ask(labels: npt.NDArray[np.int64]) -> dict[str, Any]:
        return {"class_labels": class_ids[labels].tolist()}

    return ForeignSampler(generator, config, info, device, ask)
