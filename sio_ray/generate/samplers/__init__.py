"""Samplers, one file per family of generators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sio_ray.config import GenerateConfig
from sio_ray.generate.samplers.base import Sampler
from sio_ray.imageset import ImageSetInfo

if TYPE_CHECKING:
    from sio_ray.generate.generator import Generator

__all__ = ["Sampler", "open_sampler"]


def open_sampler(generator: Generator, config: GenerateConfig, info: ImageSetInfo, device: str) -> Sampler:
    """Load a generator and make it ready to draw.

    Args:
        generator: as `find_generator` gives it, and `check_generator` has passed.
        config: scheduler, steps, guidance, and what else decides the pictures.
        info: of the set that is drawn.
        device: `cpu` or `cuda`. Noise is drawn on the CPU, so it is the same on any device.

    Raises:
        CheckpointError: the generator does not load.
    """
    # Imported for the one family that is asked for: those of diffusers take seconds.
    if generator.kind == "edm":
        from sio_ray.generate.samplers.edm import EDMSampler

        return EDMSampler(generator, config, info, device)
    if generator.kind == "dit":
        from sio_ray.generate.samplers.dit import open_dit

        return open_dit(generator, config, info, device)
    from sio_ray.generate.samplers.text_to_image import open_text_to_image

    return open_text_to_image(generator, config, info, device)
