"""One training step of the generator: noise a batch, predict F, Adam, and an average of the weights."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.edm import draw_sigma, edm_losses
from sio_ray.imageset import ImageArrays
from sio_ray.seeding import numpy_generator, torch_generator
from sio_ray.training.loop import Point
from sio_ray.training.state import flatten_state, restore_state

_EMA = "ema."


class GeneratorTrainee:
    """A UNet in training; see `sio_ray.training.loop.Trainee`.

    What is drawn for a step (images, dropped labels, noise) is drawn for the global batch and then cut, so the number
    of workers changes nothing.

    Args:
        unet: on its device.
        parallel: the same UNet as it is called in training, wrapped for data parallelism if need be.
        images: the real training set.
        sigma_data: standard deviation of its pixels in [-1, 1].
        config: recipe.
        rank: position of this worker.
        world_size: number of workers.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        parallel: nn.Module,
        images: ImageArrays,
        sigma_data: float,
        config: FitGeneratorConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._unet, self._parallel, self._sigma_data, self._config = unet, parallel, sigma_data, config
        self._images, self._labels = torch.from_numpy(images.images), torch.from_numpy(images.labels)
        self._null_class = int(unet.config.num_class_embeds) - 1
        size = config.global_batch_size
        self._part = slice(size * rank // world_size, size * (rank + 1) // world_size)
        self._world_size = world_size
        self._optimizer = torch.optim.Adam(unet.parameters(), lr=config.learning_rate)
        self._ema = EMAModel(unet.parameters(), decay=config.ema_decay)

    def step(self, step: int) -> Tensor:
        """See `Trainee`."""
        config, device = self._config, self._unet.device
        size = config.global_batch_size
        rows = torch.from_numpy(numpy_generator("rows", config.seed, step).integers(0, len(self._labels), size))
        generator = torch_generator("noise", config.seed, step)
        x = self._images[rows].float() / 127.5 - 1
        dropped = torch.rand(size, generator=generator) < config.label_dropout
        labels = self._labels[rows].masked_fill(dropped, self._null_class)
        sigma = draw_sigma(size, generator)
        noise = torch.randn(x.shape, generator=generator)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        self._optimizer.zero_grad(set_to_none=True)
        x, labels, sigma, noise = (value[self._part].to(device) for value in (x, labels, sigma, noise))
        losses = edm_losses(self._parallel, x, labels, sigma, noise, self._sigma_data)
        # The mean over the global batch, whatever the workers' parts: gradients are averaged over workers.
        loss = losses.sum() * self._world_size / size
        loss.backward()
        nn.utils.clip_grad_norm_(self._unet.parameters(), config.gradient_clip_norm)
        self._optimizer.step()
        self._ema.step(self._unet.parameters())
        return loss.detach()

    def measure(self) -> Point:
        """See `Trainee`; the loss says it all."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`; the averaged weights are kept beside the others."""
        averaged = {
            f"{_EMA}{name}": value.detach().cpu().clone()
            for (name, _), value in zip(self._unet.named_parameters(), self._ema.shadow_params, strict=True)
        }
        steps = {"ema_steps": torch.tensor(self._ema.optimization_step)}
        return {**flatten_state(self._unet, self._optimizer), **averaged, **steps}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainee`."""
        restore_state(state, self._unet, self._optimizer)
        self._ema.optimization_step = int(state["ema_steps"])
        self._ema.shadow_params = [
            state[f"{_EMA}{name}"].to(self._unet.device, copy=True) for name, _ in self._unet.named_parameters()
        ]


def averaged_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights in a trainee's state, by parameter name: what sampling uses."""
    return {name.removeprefix(_EMA): value for name, value in state.items() if name.startswith(_EMA)}
