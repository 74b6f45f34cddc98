"""One training step of the generator: noise a batch, predict F, Adam, and an average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from sio_ray.compiler import check_compiler
from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.diffusion.edm import draw_sigma, edm_losses
from sio_ray.imageset import ImageArrays, ImageSetInfo
from sio_ray.seeding import derive_seed, numpy_generator, torch_generator
from sio_ray.training.loop import Point
from sio_ray.training.state import flatten_state, restore_state

_EMA = "ema."

#: Noise is drawn for so many images at once, each block from a seed of its own. A worker draws the blocks that its part
#: of the batch touches, so its cost falls with the number of workers, and the noise does not depend on that number.
_NOISE_BLOCK = 16


class GeneratorTrainee:
    """A UNet in training; see `sio_ray.training.loop.Trainee`.

    What is drawn for a step (images, dropped labels, noise) is a function of the step and of the place in the global
    batch, so the number of workers changes nothing.

    With `precision: bfloat16` the network runs under autocast; weights, loss, gradients, optimiser and average are
    float32. With float32 on a GPU, PyTorch's defaults hold: TF32 in convolutions, IEEE float32 in matrix products.

    The average of the weights is young at first: after n updates its decay is min(ema_decay, (1 + n) / (10 + n)).

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
        self._images, self._labels = images.images, images.labels
        self._null_class = int(unet.config.num_class_embeds) - 1
        size = config.global_batch_size
        self._part = slice(size * rank // world_size, size * (rank + 1) // world_size)
        self._world_size = world_size
        self._optimizer = torch.optim.Adam(unet.parameters(), lr=config.learning_rate)
        self._ema = EMAModel(unet.parameters(), decay=config.ema_decay, foreach=True)

    def step(self, step: int) -> Tensor:
        """See `Trainee`."""
        config, device = self._config, self._unet.device
        size = config.global_batch_size
        rows = numpy_generator("rows", config.seed, step).integers(0, len(self._labels), size)
        generator = torch_generator("levels", config.seed, step)
        dropped = torch.rand(size, generator=generator) < config.label_dropout
        sigma = draw_sigma(size, generator)[self._part].to(device)
        labels = torch.from_numpy(self._labels[rows]).masked_fill(dropped, self._null_class)[self._part].to(device)
        x = torch.from_numpy(self._images[rows[self._part]]).to(device).float() / 127.5 - 1
        noise = self._noise(step).to(device)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            losses = edm_losses(self._parallel, x, labels, sigma, noise, self._sigma_data)
        # The mean over the global batch, whatever the workers' parts: gradients are averaged over workers.
        loss = losses.sum() * self._world_size / size
        loss.backward()
        nn.utils.clip_grad_norm_(self._unet.parameters(), config.gradient_clip_norm)
        self._optimizer.step()
        self._ema.step(self._unet.parameters())
        return loss.detach()

    def _noise(self, step: int) -> Tensor:
        """Standard normal noise of this worker's part of the batch, (B, C, H, W)."""
        first = self._part.start // _NOISE_BLOCK
        blocks = [
            torch.randn(
                _NOISE_BLOCK,
                *self._images.shape[1:],
                generator=torch_generator("noise", self._config.seed, step, block),
            )
            for block in range(first, (self._part.stop - 1) // _NOISE_BLOCK + 1)
        ]
        offset = first * _NOISE_BLOCK
        return torch.cat(blocks)[self._part.start - offset : self._part.stop - offset]

    def measure(self) -> Point:
        """See `Trainee`; the loss says it all."""
        return {}

    def averaged_unet(self) -> UNet2DModel:
        """A copy of the network with the averaged weights, ready to sample with; not compiled, not wrapped."""
        unet = copy.deepcopy(self._unet).eval()
        self._ema.copy_to(unet.parameters())
        return unet

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`; the averaged weights are kept beside the others."""
        averaged = {
            f"{_EMA}{name}": value.detach().cpu().clone().contiguous()
            for (name, _), value in zip(self._unet.named_parameters(), self._ema.shadow_params, strict=True)
        }
        steps = {"ema_steps": torch.tensor(self._ema.optimization_step)}
        return {**flatten_state(self._unet, self._optimizer), **averaged, **steps}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainee`."""
        restore_state(state, self._unet, self._optimizer)
        self._ema.optimization_step = int(state["ema_steps"])
        for (name, _), average in zip(self._unet.named_parameters(), self._ema.shadow_params, strict=True):
            average.copy_(state[f"{_EMA}{name}"])


def build_trainee(
    config: FitGeneratorConfig,
    info: ImageSetInfo,
    images: ImageArrays,
    sigma_data: float,
    *,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    rank: int = 0,
    world_size: int = 1,
) -> GeneratorTrainee:
    """Build the UNet that a config asks for, on its device, and its trainee.

    With `config.compile` the network is compiled in place before it is wrapped, as PyTorch advises for
    `DistributedDataParallel`; so names in a checkpoint are the same, and it may be continued with or without.

    Args:
        config: recipe.
        info: shape and classes of the training set.
        images: its images.
        sigma_data: standard deviation of its pixels in [-1, 1].
        device: where the network runs.
        wrap: makes the network data-parallel.
        rank: position of this worker.
        world_size: number of workers.

    Raises:
        ConfigError: the network does not fit the pictures, or cannot be compiled here.

    Source: "Where to apply torch.compile" of the PyTorch documentation.
    """
    if config.compile:
        check_compiler("fit_generator.compile")
    torch.manual_seed(derive_seed("unet", config.seed))
    # On a GPU convolutions are faster with the channels last.
    memory_format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    unet = build_unet(config, info).to(device=device, memory_format=memory_format)
    if config.compile:
        unet.compile()
    return GeneratorTrainee(unet, wrap(unet), images, sigma_data, config, rank=rank, world_size=world_size)


def averaged_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights in a trainee's state, by parameter name: what sampling uses."""
    return {name.removeprefix(_EMA): value for name, value in state.items() if name.startswith(_EMA)}
