"""Measures a sampler on its device: which batch fits, how fast each is, and how large its pictures become."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from sio_ray.errors import ConfigError
from sio_ray.generate.plan import Batch, Plan
from sio_ray.generate.samplers.base import Sampler
from sio_ray.imageset.pictures import encode_png

#: Every batch size is measured for at least so long, after one call to warm up.
_MEASURE_S = 2.0

#: On a CPU, larger batches are of use while they are faster by so much.
_OF_USE = 1.05


@dataclass(frozen=True)
class Calibration:
    """What one sampler batch of one size takes.

    Attributes:
        sampler_batch_size: images per call.
        images_per_s: of one actor, sampling and encoding in turn; None where the batch did not fit.
        bytes_per_image: of a PNG, the mean over the batch; None likewise.
        peak_gpu_bytes: of the allocator while sampling; None on a CPU.
    """

    sampler_batch_size: int
    images_per_s: float | None
    bytes_per_image: float | None
    peak_gpu_bytes: int | None = None


def calibrate(sampler: Sampler, plan: Plan, sizes: list[int]) -> list[Calibration]:
    """Measure batch sizes in turn, up to the first that does not fit, or past which more is not faster.

    Args:
        sampler: on its device.
        plan: whose first images are drawn; its own batch size is always measured.
        sizes: ascending.
    """
    measured: list[Calibration] = []
    for size in sizes:
        speeds = [calibration.images_per_s or 0.0 for calibration in measured]
        # On a GPU the largest that fits is asked for; on a CPU there is no such bound, only one of use.
        if not _on_gpu(sampler) and speeds[:-2] and max(speeds[-2:]) < _OF_USE * max(speeds[:-2]):
            if size > plan.sampler_batch_size:
                break
            if size < plan.sampler_batch_size:
                continue
        (batch,) = replace(plan, sampler_batch_size=size).batches(np.arange(size, dtype=np.int64))
        try:
            measured.append(_measure(sampler, batch))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            measured.append(Calibration(size, None, None))
            break
    return measured


def _on_gpu(sampler: Sampler) -> bool:
    return not sampler.device_name.startswith("cpu")


def _measure(sampler: Sampler, batch: Batch) -> Calibration:
    on_gpu = _on_gpu(sampler)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    sampler.sample(batch.labels, batch.seeds)
    calls, num_bytes = 0, 0
    start_s = time.perf_counter()
    while calls == 0 or time.perf_counter() - start_s < _MEASURE_S:
        pictures = sampler.sample(batch.labels, batch.seeds)
        num_bytes += sum(len(encode_png(picture)) for picture in pictures)
        calls += 1
    elapsed_s = time.perf_counter() - start_s
    num_images = calls * batch.num_wanted
    return Calibration(
        batch.num_wanted,
        images_per_s=num_images / elapsed_s,
        bytes_per_image=num_bytes / num_images,
        peak_gpu_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
    )


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the GPU's memory is full."""
    return isinstance(error, torch.OutOfMemoryError)


def batch_does_not_fit(sampler: Sampler, batch: Batch) -> ConfigError:
    """The error for a batch that ran out of memory; says which size fits, found by halving."""
    asked, size = len(batch.labels), len(batch.labels) // 2
    torch.cuda.empty_cache()
    while size:
        try:
            sampler.sample(batch.labels[:size], batch.seeds[:size])
            break
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            size //= 2
    remedy = (
        f"{size} fits: set generate.sampler_batch_size={size} (the bytes depend on it, so it is not changed for you)"
        if size
        else "not even 1 fits: use a smaller generator, generate.dtype=bfloat16, or a larger GPU"
    )
    return ConfigError("generate.sampler_batch_size", f"small enough for {sampler.device_name}", asked, remedy)
