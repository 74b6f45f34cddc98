"""The Ray edge of generation: what its config asks of a pool, and what an actor measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ray

from sio_ray.cluster import limit_threads
from sio_ray.config import GenerateConfig
from sio_ray.errors import CheckpointError, ConfigError, GenerationError, ImageSetError
from sio_ray.pool.resources import PoolSize, Work

if TYPE_CHECKING:  # an actor loads torch only if its sampler does
    from sio_ray.generate.calibrate import Calibration
    from sio_ray.generate.plan import Plan
    from sio_ray.generate.samplers.base import Sampler

#: Drawing shards, as a pool's messages name it.
DRAWING = Work(
    stage="generate",
    doing="drawing",
    cpus_field="generate.threads_per_actor",
    gpus_field="generate.gpus_per_actor",
    timeout_field="generate.shard_timeout_s",
    error=GenerationError,
    fatal=(ConfigError, CheckpointError, ImageSetError),
)


def pool_size(section: GenerateConfig) -> PoolSize:
    """What a config asks for."""
    return PoolSize(section.num_actors, section.threads_per_actor, section.gpus_per_actor, section.accelerator_type)


def calibrate_on_actor(
    make_sampler: Callable[[], Sampler], plan: Plan, size: PoolSize, batch_sizes: list[int]
) -> tuple[str, list[Calibration]]:
    """Measure batch sizes where an actor would run.

    Returns:
        The name of the device, and what was measured.

    Raises:
        ResourceError: the cluster holds no such actor.
    """
    if size.capacity() == 0:
        raise size.no_place(DRAWING)

    def work() -> tuple[str, list[Calibration]]:
        from sio_ray.generate.calibrate import calibrate

        sampler = make_sampler()
        limit_threads(size.threads_per_actor)
        return sampler.device_name, calibrate(sampler, plan, batch_sizes)

    measured: tuple[str, list[Calibration]] = ray.get(ray.remote(**size.options())(work).remote())
    return measured
