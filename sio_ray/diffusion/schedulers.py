"""Samplers of the EDM family by name: diffusers' schedulers, all fed with the denoised picture D."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

#: Those that a generator is saved with: they hold sigma_min, sigma_max, rho and sigma_data.
EDM_SCHEDULERS = {"edm_euler": EDMEulerScheduler, "edm_dpmsolver_multistep": EDMDPMSolverMultistepScheduler}

#: Variance-preserving ones: they hold x_vp = x / sqrt(1 + sigma^2), and sigma^2 = (1 - alpha_bar) / alpha_bar.
VP_SCHEDULERS = {
    "ddim": DDIMScheduler,
    "dpmsolver_multistep": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "deis": DEISMultistepScheduler,
}

#: The samplers that a config may name for a generator of this family.
SCHEDULERS: dict[str, Any] = {**EDM_SCHEDULERS, **VP_SCHEDULERS}

#: Those that a config may name for a pipeline not ours.
FOREIGN_SCHEDULERS: dict[str, Any] = {**VP_SCHEDULERS, "euler": EulerDiscreteScheduler}


def can_take(name: str, saved: Mapping[str, Any]) -> bool:
    """Whether one of `FOREIGN_SCHEDULERS` gives the noise levels that a pipeline's saved scheduler was trained with.

    diffusers itself would build any from any config, and pass over what it does not know, such as flow matching.
    """
    kind = FOREIGN_SCHEDULERS[name]
    family = {other.__name__ for other in kind().compatibles if not other.__name__.startswith("EDM")}
    flows = saved.get("use_flow_sigmas") or saved.get("prediction_type") == "flow_prediction"
    takes_flows = "use_flow_sigmas" in inspect.signature(kind.__init__).parameters
    return saved.get("_class_name") in {*family, kind.__name__} and (takes_flows or not flows)


class _TakesD:
    """Makes a scheduler of EDM take D for its model output, so that D can be clipped first."""

    def precondition_outputs(self, sample: Tensor, model_output: Tensor, sigma: Tensor) -> Tensor:
        return model_output


class _Euler(_TakesD, EDMEulerScheduler):
    pass


class _DPMSolverMultistep(_TakesD, EDMDPMSolverMultistepScheduler):
    pass


_TAKING_D: dict[str, Any] = {"edm_euler": _Euler, "edm_dpmsolver_multistep": _DPMSolverMultistep}


class Solver:
    """One run of a sampler from sigma_max down to 0, over Karras' noise levels (arXiv:2206.00364, equation 5).

    A VP scheduler counts in steps of its training, and rounds to them. So it is given a training of exactly
    `num_inference_steps` steps, whose betas have the very noise levels that are wanted: then nothing is rounded or
    interpolated, DDIM's "previous step" (which assumes that the one number divides the other) is right, and DDIM is
    EDM's Euler. `trailing` is the spacing that begins with the last, noisiest step.

    Args:
        name: a key of `SCHEDULERS`; the saved one if None.
        saved: the scheduler saved with the generator, one of EDM's.
        num_inference_steps: denoising steps.

    Attributes:
        sigmas: noise level of each step, descending.
    """

    def __init__(self, name: str | None, saved: Any, num_inference_steps: int) -> None:
        self._is_vp = name in VP_SCHEDULERS
        kind = next(kind for kind in EDM_SCHEDULERS if isinstance(saved, EDM_SCHEDULERS[kind]))
        edm = _TAKING_D[kind if name is None or self._is_vp else name].from_config(saved.config)
        edm.set_timesteps(num_inference_steps)
        edm.is_scale_input_called = True  # the caller applies c_in
        self._scheduler: Any = edm
        self.sigmas: list[float] = edm.sigmas[:-1].tolist()
        if self._is_vp:
            self._scheduler = VP_SCHEDULERS[str(name)](
                num_train_timesteps=num_inference_steps,
                trained_betas=_betas(edm.sigmas[:-1]),
                prediction_type="sample",
                timestep_spacing="trailing",
                **({"clip_sample": False} if name == "ddim" else {}),
            )
            self._scheduler.set_timesteps(num_inference_steps)
            alpha_bar = self._scheduler.alphas_cumprod.double().flip(0)  # rounded to float32
            self.sigmas = ((1 - alpha_bar) / alpha_bar).sqrt().tolist()
        if name != "ddim":  # which counts by its time steps
            self._scheduler.set_begin_index(0)

    def scale(self, step: int) -> float:
        """What x is multiplied by in the scheduler's own space."""
        return (1 + self.sigmas[step] ** 2) ** -0.5 if self._is_vp else 1.0

    def start(self, noise: Tensor) -> Tensor:
        """The first x, in the scheduler's own space."""
        return noise * float(self._scheduler.init_noise_sigma)

    def step(self, D: Tensor, step: int, x: Tensor) -> Tensor:
        """The next x from this x and its denoised picture."""
        following: Tensor = self._scheduler.step(D, self._scheduler.timesteps[step], x).prev_sample
        return following


def _betas(sigmas: Tensor) -> list[float]:
    """Betas of a training whose noise levels are these, descending."""
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), 1 / (1 + sigmas.double().flip(0) ** 2)])
    betas: list[float] = (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
    return betas
