"""Every sampler against closed forms: Karras' noise levels, a constant D, its order, and twins that must agree."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from sio_ray.config.generator_sections import SchedulerName
from sio_ray.diffusion.schedulers import EDM_SCHEDULERS, FOREIGN_SCHEDULERS, SCHEDULERS, VP_SCHEDULERS, Solver, can_take

NOISE = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))


def solver(name: str | None, num_steps: int, **changes: float) -> Solver:
    return Solver(name, EDMDPMSolverMultistepScheduler(**changes), num_steps)


def solve(name: str | None, num_steps: int, denoise, **changes: float) -> Tensor:
    """The last D of the whole run, in float32 as the pipeline does it."""
    run = solver(name, num_steps, **changes)
    x = run.start(NOISE)
    for step, sigma in enumerate(run.sigmas):
        D = denoise(x / run.scale(step), sigma)
        if step + 1 < num_steps:
            x = run.step(D, step, x)
    return D


def gaussian(x: Tensor, sigma: float, mean: float = 0.2, deviation: float = 0.3) -> Tensor:
    return mean + deviation**2 / (deviation**2 + sigma**2) * (x - mean)


def test_a_config_can_name_every_sampler_and_no_other():
    assert set(get_args(SchedulerName)) == {*SCHEDULERS, *FOREIGN_SCHEDULERS}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [2, 7, 18, 300])
@pytest.mark.parametrize("ends", [{}, {"sigma_min": 0.01, "sigma_max": 30.0, "rho": 5.0}])
def test_noise_levels_are_karras_from_the_largest_to_the_smallest(name, num_steps, ends):
    low, high, rho = ends.get("sigma_min", 0.002), ends.get("sigma_max", 80.0), ends.get("rho", 7.0)
    expected = np.linspace(high ** (1 / rho), low ** (1 / rho), num_steps) ** rho
    # alpha_bar near 1 is a float32 in the VP schedulers: sigma^2 is known to 6e-8, which is 1.5% at 0.002.
    np.testing.assert_allclose(solver(name, num_steps, **ends).sigmas, expected, rtol=1e-2)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [2, 3, 14, 15, 40])
def test_a_constant_denoised_picture_is_solved_exactly_in_any_number_of_steps(name, num_steps):
    run, D = solver(name, num_steps), torch.full_like(NOISE, 0.7)
    x = run.start(NOISE)
    first = x / run.scale(0)
    torch.testing.assert_close(first, NOISE * math.hypot(80, 1), rtol=1e-4, atol=0)
    for step in range(num_steps - 1):
        x = run.step(D, step, x)
        expected = D + run.sigmas[step + 1] / run.sigmas[0] * (first - D)
        torch.testing.assert_close(x / run.scale(step + 1), expected, rtol=1e-4, atol=1e-4)


# Euler's error halves when the steps double, that of a solver of second order goes to a quarter, UniPC's to an eighth.
ORDERS = {"edm_euler": 1, "ddim": 1, "edm_dpmsolver_multistep": 2, "dpmsolver_multistep": 2, "deis": 2, "unipc": 3}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_error_falls_with_the_order_of_the_sampler(name):
    exact = 0.2 + 0.3 / (80**2 + 0.3**2) ** 0.5 * (NOISE * math.hypot(80, 1) - 0.2)
    errors = [float((solve(name, num_steps, gaussian) - exact).abs().max()) for num_steps in (20, 40, 80)]
    assert errors[0] / errors[1] > 0.9 * 2 ** ORDERS[name]
    assert errors[1] / errors[2] > 0.9 * 2 ** ORDERS[name]
    assert errors[2] < 0.03


@pytest.mark.parametrize(("vp", "edm"), [("ddim", "edm_euler"), ("dpmsolver_multistep", "edm_dpmsolver_multistep")])
@pytest.mark.parametrize("num_steps", [2, 9, 14, 15, 33])
def test_ddim_is_euler_and_both_multistep_solvers_are_one(vp, edm, num_steps):
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(x / (1 + sigma)) - 0.3 * x / (1 + sigma)

    torch.testing.assert_close(solve(vp, num_steps, denoise), solve(edm, num_steps, denoise), atol=2e-3, rtol=0)


def test_no_name_means_the_saved_one_with_its_own_settings():
    for name, kind in EDM_SCHEDULERS.items():
        run = Solver(None, kind(sigma_max=20.0), 9)
        assert run.sigmas == Solver(name, EDMEulerScheduler(sigma_max=20.0), 9).sigmas
    results = [solve(name, 6, gaussian) for name in (None, "edm_dpmsolver_multistep", "edm_euler")]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", FOREIGN_SCHEDULERS)
def test_a_swap_takes_what_diffusers_calls_compatible_and_no_other_noise_levels(name):
    for saved in ("DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        assert can_take(name, {"_class_name": saved})
    for saved in ("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "LCMScheduler", None):
        assert not can_take(name, {"_class_name": saved})
    assert not can_take(name, dict(FlowMatchEulerDiscreteScheduler().config))
    # Sana's: flow matching inside a scheduler that also does the other thing.
    flows = {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}
    assert can_take(name, flows) is (name in {"dpmsolver_multistep", "unipc", "deis"})
    assert set(VP_SCHEDULERS) < set(FOREIGN_SCHEDULERS)
