"""Draws with a text-to-image pipeline of diffusers: one prompt per class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.utils.logging import disable_progress_bar

from sio_ray.config import GenerateConfig
from sio_ray.generate.generator import Generator
from sio_ray.generate.samplers.foreign import ForeignSampler
from sio_ray.imageset import ImageSetInfo


def open_text_to_image(generator: Generator, config: GenerateConfig, info: ImageSetInfo, device: str) -> ForeignSampler:
    """A sampler that asks for the names of the set's classes."""
    disable_progress_bar()  # of each text encoder's weights
    prompts = [config.prompt.format(class_name=name) for name in info.class_names]
    size = (
        {} if generator.image_shape is None else dict(zip(("height", "width"), generator.image_shape[1:], strict=True))
    )

    def ask(labels: npt.NDArray[np.int64]) -> dict[str, Any]:
        asked: dict[str, Any] = {"prompt": [prompts[label] for label in labels], **size}
        if config.negative_prompt is not None:
            asked["negative_prompt"] = [config.negative_prompt] * len(labels)
        return asked

    return ForeignSampler(generator, config, info, device, ask)
