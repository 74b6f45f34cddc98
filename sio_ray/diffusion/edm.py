"""EDM's preconditioning and training loss (Karras et al., arXiv:2206.00364, table 1 and equation 8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers import UNet2DModel
from torch import Tensor

#: ln(sigma) of training noise is normal with this mean and standard deviation (P_mean, P_std of table 1).
P_MEAN, P_STD = -1.2, 1.2


class Preconditioning(NamedTuple):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), with c of shape (B, 1, 1, 1) and c_noise of shape (B,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def precondition(sigma: Tensor, sigma_data: float) -> Preconditioning:
    """The coefficients of one noise level per image; the same that diffusers' EDM schedulers sample with.

    Args:
        sigma: (B,) float32, positive.
        sigma_data: standard deviation of the training pixels in [-1, 1].
    """
    s = sigma[:, None, None, None]
    norm = (s**2 + sigma_data**2).sqrt()
    return Preconditioning(
        c_skip=sigma_data**2 / norm**2, c_out=s * sigma_data / norm, c_in=1 / norm, c_noise=0.25 * sigma.log()
    )


def draw_sigma(count: int, generator: torch.Generator) -> Tensor:
    """Draw (count,) noise levels of training."""
    return (P_MEAN + P_STD * torch.randn(count, generator=generator)).exp()


def edm_losses(
    unet: UNet2DModel, x: Tensor, class_labels: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float
) -> Tensor:
    """The weighted denoising error of each image: lambda(sigma) ||D(x + sigma n; sigma) - x||^2, mean over pixels.

    Written on F, where lambda c_out^2 = 1, so that no factor grows large at either end of sigma.

    Args:
        unet: F of the paper.
        x: (B, C, H, W) float32 in [-1, 1].
        class_labels: (B,) int64; the number of classes is the null class.
        sigma: (B,) float32.
        noise: (B, C, H, W) standard normal.
        sigma_data: standard deviation of the training pixels.

    Returns:
        (B,) float32.
    """
    c = precondition(sigma, sigma_data)
    noisy = x + sigma[:, None, None, None] * noise
    target = (x - c.c_skip * noisy) / c.c_out
    predicted = unet(c.c_in * noisy, c.c_noise, class_labels=class_labels).sample
    losses: Tensor = (predicted.float() - target).square().mean(dim=(1, 2, 3))
    return losses
