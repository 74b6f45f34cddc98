"""A diffusers pipeline that draws pictures of asked classes, one seed per picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, EDMDPMSolverMultistepScheduler, EDMEulerScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

#: The samplers that a config may name.
SCHEDULERS = {"edm_euler": EDMEulerScheduler, "edm_dpmsolver_multistep": EDMDPMSolverMultistepScheduler}


class ClassConditionalEDMPipeline(DiffusionPipeline):
    """Class-conditional sampling with EDM preconditioning and classifier-free guidance.

    Args:
        unet: predicts F of EDM; its last class embedding is the null class.
        scheduler: one of diffusers' EDM schedulers; holds sigma_data.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

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
    ) -> Tensor:
        """Draw one picture per label.

        Args:
            class_labels: (B,) in [0, num_classes).
            generator: one per picture, so that a picture does not depend on its batch mates; or one for all.
            num_inference_steps: denoising steps.
            guidance_scale: 1 is no guidance; F is mixed, which mixes D the same way as both share c_skip and c_out.

        Returns:
            (B, C, H, W) float32 in [-1, 1], on the CPU.
        """
        device, dtype = self._execution_device, self.unet.dtype
        labels = torch.as_tensor(class_labels, dtype=torch.int64, device=device)
        null = torch.full_like(labels, self.num_classes)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (len(labels), self.unet.config.in_channels, height, width)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        x = (
            randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
            * self.scheduler.init_noise_sigma
        )
        for t in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(x, t).to(dtype)
            if guidance_scale == 1.0:
                F = self.unet(scaled, t, class_labels=labels).sample
            else:
                both = self.unet(torch.cat([scaled, scaled]), t, class_labels=torch.cat([labels, null])).sample
                conditional, unconditional = both.chunk(2)
                F = unconditional + guidance_scale * (conditional - unconditional)
            x = self.scheduler.step(F.float(), t, x).prev_sample
        pictures: Tensor = x.clamp(-1, 1).cpu()
        return pictures
