"""The generator: where it is, what it draws, and whether that fits."""

from sio_ray.generate.generator.check import check_generator
from sio_ray.generate.generator.find import Generator, find_generator

__all__ = ["Generator", "check_generator", "find_generator"]
