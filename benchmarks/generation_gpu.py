"""The GPU part of `generation.py`: our samplers against the plain diffusers loop, as shares of the GPU's bf16 peak."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published import build_dit
from torch.utils.flop_counter import FlopCounterMode

from sio_ray.config import GenerateConfig
from sio_ray.generate.generator import find_generator
from sio_ray.generate.job import Job, plan_of
from sio_ray.imageset.storage import Folder

#: Each side is timed for so long after it has warmed up.
_MEASURE_S = 20.0


def measure_gpu(folder: Path) -> Any:
    """Images per second of both models, or why not."""
    if not torch.cuda.is_available():
        return "no GPU on this machine"
    peak = _peak_flops()
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "measured_bf16_peak_tflops": round(peak / 1e12, 1)}
    for name, save, batch, steps in (("unet_32px", _save_unet, 512, 18), ("dit_xl_2_256px", _save_dit, 32, 25)):
        save(folder / name)
        result[name] = _compare(folder / name, batch, steps, peak)
        torch.cuda.empty_cache()
    return result


def _compare(model: Path, batch: int, steps: int, peak: float) -> Any:
    generator = find_generator(str(model))
    labels = np.arange(batch, dtype=np.int64) % 10

    def ours(**levers: Any) -> Callable[[], Any]:
        section = GenerateConfig(
            generator=str(model),
            num_images=batch,
            num_inference_steps=steps,
            guidance_scale=1.5,
            gpus_per_actor=1,
            **levers,
        )
        plan, info = plan_of(section, generator, None)
        sampler = Job(section, plan, info, generator, Folder(str(model / "unused"))).make_sampler()
        return lambda: sampler.sample(labels, range(batch))

    pipeline = _plain_pipeline(model).to("cuda")
    pipeline.set_progress_bar_config(disable=True)

    def plain() -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
        return pipeline(
            class_labels=labels.tolist(), generator=generators, num_inference_steps=steps, guidance_scale=1.5
        )

    with FlopCounterMode(display=False) as counter:
        plain()
    flops_per_image = counter.get_total_flops() / batch
    speeds = {"plain_float32": _images_per_s(plain, batch)}
    for name, levers in (
        ("ours_float32", {}),
        ("ours_bfloat16", {"dtype": "bfloat16"}),
        ("ours_bfloat16_compiled", {"dtype": "bfloat16", "compile": True}),
    ):
        speeds[name] = _images_per_s(ours(**levers), batch)
    return {
        name: {
            "images_per_s": round(speed, 2),
            "ratio_to_plain": round(speed / speeds["plain_float32"], 2),
            "share_of_bf16_peak": round(speed * flops_per_image / peak, 3),
        }
        for name, speed in speeds.items()
    }


def _images_per_s(draw: Callable[[], Any], batch: int) -> float:
    draw()  # warms up, compiles
    torch.cuda.synchronize()
    start_s, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start_s < _MEASURE_S:
        draw()
        torch.cuda.synchronize()
        calls += 1
    return calls * batch / (time.perf_counter() - start_s)


def _peak_flops() -> float:
    """Of a large bf16 matrix product on this GPU, which is what a network can hope for."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return _images_per_s(lambda: a @ b, 1) * 2 * size**3


def _plain_pipeline(model: Path) -> Any:
    from diffusers import DiTPipeline

    from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline

    kind = DiTPipeline if "dit" in model.name else ClassConditionalEDMPipeline
    return kind.from_pretrained(str(model), use_safetensors=True)


def _save_unet(folder: Path) -> None:
    from diffusers import EDMEulerScheduler

    from sio_ray.config import FitGeneratorConfig
    from sio_ray.diffusion.denoiser import build_unet
    from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
    from sio_ray.imageset import ImageSetInfo

    info = ImageSetInfo(class_names=tuple("0123456789"), height_px=32, width_px=32, channels=3)
    unet = build_unet(FitGeneratorConfig(block_out_channels=(128, 256, 256)), info)
    scheduler = EDMEulerScheduler(sigma_data=0.5)
    ClassConditionalEDMPipeline(unet.eval(), scheduler).save_pretrained(str(folder), safe_serialization=True)


def _save_dit(folder: Path) -> None:
    from diffusers import DDIMScheduler, DiTPipeline

    transformer, vae = build_dit()
    pipeline = DiTPipeline(transformer.eval(), vae.eval(), DDIMScheduler(clip_sample=False))
    pipeline.save_pretrained(str(folder), safe_serialization=True)
