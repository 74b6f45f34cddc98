"""The generator's training step: resumes bit for bit, and any number of workers takes the same step."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.trainee import GeneratorTrainee, averaged_weights
from sio_ray.training.state import load_progress, save_progress

SIGMA_DATA = 0.5


def trainee_of(unet, images, config, **kwargs) -> tuple[GeneratorTrainee, UNet2DModel]:
    unet = copy.deepcopy(unet)
    return GeneratorTrainee(unet, unet, images, SIGMA_DATA, config, **kwargs), unet


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_a_resumed_run_goes_on_bit_for_bit(unet, images, config, tmp_path):
    straight, _ = trainee_of(unet, images, config)
    straight_losses = [straight.step(step).item() for step in range(4)]
    killed, _ = trainee_of(unet, images, config)
    losses = [killed.step(step).item() for step in range(2)]
    save_progress(tmp_path, killed.state(), 2, [])
    torch.manual_seed(123)  # the global generator must not matter
    resumed, _ = trainee_of(unet, images, config)
    resumed.load_state(load_progress(tmp_path)[0])
    losses += [resumed.step(step).item() for step in range(2, 4)]
    assert losses == straight_losses
    assert_same(resumed.state(), straight.state())


def test_the_state_that_was_given_or_taken_stays_as_it_is(unet, images, config):
    trainee, _ = trainee_of(unet, images, config)
    trainee.step(0)
    state = trainee.state()
    before = {name: value.clone() for name, value in state.items()}
    trainee.step(1)
    assert_same(state, before)
    trainee.load_state(state)
    trainee.step(1)
    assert_same(state, before)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_workers_mean_gradient_is_that_of_one_worker(unet, images, config, world_size):
    config = config.model_copy(update={"gradient_clip_norm": 1e9})
    whole, of_whole = trainee_of(unet, images, config)
    loss = whole.step(0)
    losses, gradients = [], []
    for rank in range(world_size):
        part, of_part = trainee_of(unet, images, config, rank=rank, world_size=world_size)
        losses.append(part.step(0))
        gradients.append([p.grad for p in of_part.parameters()])
    torch.testing.assert_close(torch.stack(losses).mean(), loss)
    for of_ranks, parameter in zip(zip(*gradients, strict=True), of_whole.parameters(), strict=True):
        torch.testing.assert_close(torch.stack(of_ranks).mean(0), parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label_dropout", [0.0, 1.0])
def test_dropped_labels_train_the_null_class_and_no_other(unet, images, config, label_dropout):
    trainee, trained = trainee_of(unet, images, config.model_copy(update={"label_dropout": label_dropout}))
    trainee.step(0)
    has_gradient = trained.class_embedding.weight.grad.abs().sum(1) > 0
    assert has_gradient[3].item() is (label_dropout == 1.0)
    assert has_gradient[:3].any().item() is (label_dropout == 0.0)


def test_the_averaged_weights_are_the_average_of_the_trained_ones(unet, images, config):
    config = config.model_copy(update={"ema_decay": 0.15})
    trainee, trained = trainee_of(unet, images, config)
    average = {name: value.detach().clone() for name, value in trained.named_parameters()}
    for step in range(5):
        trainee.step(step)
        # Young averages decay faster: (1 + n) / (10 + n) after n updates, and not at all at the first.
        decay = 0.0 if step == 0 else min(0.15, (1 + step) / (10 + step))
        for name, value in trained.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * value.detach()
    ours = averaged_weights(trainee.state())
    assert ours.keys() == average.keys()
    for name in average:
        torch.testing.assert_close(ours[name], average[name])
    trained.load_state_dict(ours, strict=True)


def test_the_learning_rate_warms_up_and_then_stays(unet, images, config):
    config = FitGeneratorConfig(**{**config.model_dump(), "learning_rate": 0.5, "warmup_steps": 4})
    trainee, _ = trainee_of(unet, images, config)
    rates = []
    for step in [0, 1, 3, 4, 90]:
        trainee.step(step)
        rates.append(trainee._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.125, 0.25, 0.5, 0.5, 0.5])


def test_every_step_draws_other_images_each_as_often_as_the_others(unet, images, config):
    config = config.model_copy(update={"label_dropout": 0.0})
    trainee, trained = trainee_of(unet, images, config)
    drawn: list[list[int]] = []
    trained.register_forward_pre_hook(
        lambda _module, _args, kwargs: drawn.append(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    for step in range(60):
        trainee.step(step)
    assert len({tuple(labels) for labels in drawn}) > 30
    shares = np.bincount(np.concatenate(drawn), minlength=3) / 360
    np.testing.assert_allclose(shares, np.bincount(images.labels) / 20, atol=4 * 0.5 / 360**0.5)


def test_another_seed_draws_other_steps(unet, images, config):
    losses = {
        trainee_of(unet, images, config.model_copy(update={"seed": seed}))[0].step(step).item()
        for seed in (0, 1)
        for step in (0, 1)
    }
    assert len(losses) == 4
