"""What changes over a training run, as functions of the step: the learning rate and the two knobs of SIO."""

from __future__ import annotations

import math

from sio_ray.config import RampConfig, TrainConfig

#: The cosine ends here, as in OpenOOD's recipe.
_FINAL_LEARNING_RATE = 1e-6


def num_steps_of(config: TrainConfig, num_real: int) -> int:
    """Optimiser steps of a run.

    An epoch is as many steps as the real set has batches of `global_batch_size`, in both arms, so both do the same
    work; with a real share of 0.8, SIO passes 0.8 times over the real set in that time.
    """
    if config.num_epochs is None:
        return config.num_steps
    return config.num_epochs * math.ceil(num_real / config.global_batch_size)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine down to 1e-6 over all steps, or a staircase.

    Args:
        step: from 0.
        config: recipe, with `num_steps` resolved.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "step":
        passed = sum(step >= milestone * config.num_steps for milestone in config.step_milestones)
        return config.learning_rate * config.step_factor**passed
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    final = min(_FINAL_LEARNING_RATE, config.learning_rate)
    return final + (config.learning_rate - final) * (1 + math.cos(math.pi * done)) / 2


def ramped(end: float, ramp: RampConfig | None, step: int, num_steps: int) -> float:
    """A knob at a step: on its way from where the ramp starts to `end`, then there; `end` without a ramp.

    Args:
        end: the field that the ramp belongs to.
        ramp: how it gets there.
        step: from 0.
        num_steps: of the run, which a ramp without a length of its own takes in full.
    """
    if ramp is None:
        return end
    if ramp.shape == "steps":
        return [ramp.start, *(value for at, value in ramp.jumps if at <= step)][-1]
    done = min(1.0, step / (ramp.num_steps or num_steps))
    if ramp.shape == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return ramp.start + (end - ramp.start) * done
