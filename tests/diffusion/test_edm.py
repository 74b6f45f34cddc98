"""EDM's coefficients and loss against diffusers, and against the paper's formulas in float64 NumPy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler
from torch import Tensor

from sio_ray.diffusion.edm import P_MEAN, P_STD, draw_sigma, edm_losses, precondition

SIGMAS = torch.tensor([0.002, 0.03, 0.5, 1.0, 7.0, 80.0])


def picture_noise(seed: int) -> Tensor:
    return torch.randn(len(SIGMAS), 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma_data", [0.5, 0.23, 1.1])
def test_coefficients_are_those_that_diffusers_samples_with(sigma_data):
    scheduler = EDMEulerScheduler(sigma_data=sigma_data)
    c = precondition(SIGMAS, sigma_data)
    x, F = picture_noise(0), picture_noise(1)
    for i, sigma in enumerate(SIGMAS):
        torch.testing.assert_close(c.c_in[i] * x[i], scheduler.precondition_inputs(x[i], sigma))
        torch.testing.assert_close(c.c_noise[i], scheduler.precondition_noise(sigma))
        torch.testing.assert_close(
            c.c_skip[i] * x[i] + c.c_out[i] * F[i], scheduler.precondition_outputs(x[i], F[i], sigma)
        )


def toy_unet(x: Tensor, c_noise: Tensor, class_labels: Tensor) -> SimpleNamespace:
    return SimpleNamespace(sample=torch.tanh(x) * (1 + c_noise + class_labels)[:, None, None, None])


@pytest.mark.parametrize("sigma_data", [0.5, 0.3])
def test_loss_is_the_papers_weighted_denoising_error(sigma_data):
    labels = torch.arange(len(SIGMAS)) % 3
    x, noise = picture_noise(2).clamp(-1, 1), picture_noise(3)
    ours = edm_losses(toy_unet, x, labels, SIGMAS, noise, sigma_data)
    for i in range(len(SIGMAS)):
        s, d = float(SIGMAS[i]), sigma_data
        clean, noisy = x[i].double().numpy(), x[i].double().numpy() + s * noise[i].double().numpy()
        F = np.tanh(noisy / np.sqrt(s**2 + d**2)) * (1 + np.log(s) / 4 + int(labels[i]))
        D = d**2 / (s**2 + d**2) * noisy + s * d / np.sqrt(s**2 + d**2) * F
        expected = (s**2 + d**2) / (s * d) ** 2 * np.mean((D - clean) ** 2)
        # At the largest sigma the paper's form multiplies a small difference; ours does not.
        assert float(ours[i]) == pytest.approx(expected, rel=1e-4)


def test_loss_of_an_image_does_not_depend_on_its_batch():
    labels, x, noise = torch.arange(len(SIGMAS)) % 3, picture_noise(2), picture_noise(3)
    whole = edm_losses(toy_unet, x, labels, SIGMAS, noise, 0.5)
    for i in range(len(SIGMAS)):
        one = edm_losses(toy_unet, x[i, None], labels[i, None], SIGMAS[i, None], noise[i, None], 0.5)
        torch.testing.assert_close(one[0], whole[i])


def test_noise_levels_are_log_normal_and_a_function_of_the_generator():
    logs = draw_sigma(40_000, torch.Generator().manual_seed(0)).double().log()
    assert logs.mean().item() == pytest.approx(P_MEAN, abs=4 * P_STD / 200)
    assert logs.std().item() == pytest.approx(P_STD, rel=0.02)
    assert torch.equal(draw_sigma(9, torch.Generator().manual_seed(5)), draw_sigma(9, torch.Generator().manual_seed(5)))
