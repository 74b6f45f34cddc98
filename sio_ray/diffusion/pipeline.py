"""A diffusers pipeline that draws pictures of asked classes, one seed per picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from sio_ray.diffusion.edm import precondition
from sio_ray.diffusion.schedulers import Solver


class ClassConditionalEDMPipeline(DiffusionPipeline):
    """Class-conditional sampling with EDM preconditioning and classifier-free guidance.

    Args:
        unet: predicts F of EDM; its last class embedding is the null class.
        scheduler: one of diffusers' EDM schedulers; holds sigma_data and the range of sigma.
        class_names: name of class c at position c; they are saved in `model_index.json`.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: Any, scheduler: Any, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(class_names=None if class_names is None else list(class_names))

    @property
    def num_classes(self) -> int:
        """Classes that can be asked for, without the null class."""
        return int(self.unet.config.num_class_embeds) - 1

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | Tensor,
        generator: list[torch.Generator] | torch.Generator | None = None,
        num_inference_steps: int = 18,
        guidance_scale: float = 1.0,
        *,
        guidance_interval: tuple[float, float] | None = None,
        clip_denoised: bool = False,
        scheduler: str | None = None,
        clamp: bool = True,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Draw one picture per label.

        Args:
            class_labels: (B,) in [0, num_classes).
            generator: one per picture, so that a picture does not depend on its batch mates; or one for all.
            num_inference_steps: denoising steps.
            guidance_scale: 1 is no guidance; F is mixed, which mixes D the same way as both share c_skip and c_out.
            guidance_interval: sigma in (low, high] at which guidance acts (arXiv:2404.07724); all if not given.
            clip_denoised: hold D to [-1, 1] at every step but the last; pixels live there, so this moves D towards
                every possible picture.
            scheduler: name of the sampler, a key of `SCHEDULERS`; the pipeline's own if not given.
            clamp: hold the picture to [-1, 1]; without, what it overshoots by can be measured.
            watch: called with every step's D, (B, C, H, W), before it is clipped.

        Returns:
            (B, C, H, W) float32, on the CPU.
        """
        device = self._execution_device
        labels = torch.as_tensor(class_labels, dtype=torch.int64, device=device)
        null = torch.full_like(labels, self.num_classes)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (len(labels), self.unet.config.in_channels, height, width)
        solver = Solver(scheduler, self.scheduler, num_inference_steps)
        low, high = guidance_interval or (0.0, float("inf"))
        x = solver.start(randn_tensor(shape, generator=generator, device=device, dtype=torch.float32))
        for step, sigma in enumerate(self.progress_bar(solver.sigmas)):
            c = precondition(torch.tensor([sigma]), self.scheduler.config.sigma_data)
            # Plain numbers, so that a GPU is given no small work.
            c_skip, c_out, c_in, scale = float(c.c_skip), float(c.c_out), float(c.c_in), solver.scale(step)
            scaled, c_noise = (x * (c_in / scale)).to(self.unet.dtype), c.c_noise.to(device)
            if guidance_scale == 1.0 or not low < sigma <= high:
                F = self.unet(scaled, c_noise, class_labels=labels).sample.float()
            else:
                both = self.unet(torch.cat([scaled, scaled]), c_noise, class_labels=torch.cat([labels, null])).sample
                conditional, unconditional = both.float().chunk(2)
                F = unconditional + guidance_scale * (conditional - unconditional)
            D = torch.add(x * (c_skip / scale), F, alpha=c_out)
            if watch is not None:
                watch(D)
            if step + 1 < len(solver.sigmas):
                x = solver.step(D.clamp_(-1, 1) if clip_denoised else D, step, x)
        # From the last noise level every sampler steps to none, where the picture is D.
        pictures: Tensor = (D.clamp_(-1, 1) if clamp else D).cpu()
        return pictures
