"""The generator's training step: resumes bit for bit, and any number of workers takes the same step."""

from __future__ import annotations

import copy
import shutil
from functools import partialmethod

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.trainee import GeneratorTrainee, averaged_weights, build_trainee
from sio_ray.errors import ConfigError
from sio_ray.training.state import load_progress, save_progress

SIGMA_DATA = 0.5

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def trainee_of(unet, images, config, **kwargs) -> tuple[GeneratorTrainee, UNet2DModel]:
    unet = copy.deepcopy(unet)
    return GeneratorTrainee(unet, unet, images, SIGMA_DATA, config, **kwargs), unet


def built(config, info, images, **changes) -> GeneratorTrainee:
    config = FitGeneratorConfig(**{**config.model_dump(), **changes})
    return build_trainee(config, info, images, SIGMA_DATA, device=torch.device("cpu"))


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


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 6), (4, 6), (3, 40)])
def test_the_workers_mean_gradient_is_that_of_one_worker(unet, images, config, world_size, batch_size):
    config = config.model_copy(update={"gradient_clip_norm": 1e9, "global_batch_size": batch_size})
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


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_resumed_run_has_its_tensors_in_the_memory_format_of_the_weights(unet, images, config, memory_format):
    unet.to(memory_format=memory_format)
    trainee, _ = trainee_of(unet, images, config)
    trainee.step(0)
    state = trainee.state()
    assert all(value.is_contiguous() for value in state.values())
    resumed, of_resumed = trainee_of(unet, images, config)
    resumed.load_state(state)
    for average, (parameter, moments) in zip(resumed._ema.shadow_params, resumed._optimizer.state.items(), strict=True):
        assert average.stride() == moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
    trainee.step(1)
    resumed.step(1)
    assert_same(resumed.state(), trainee.state())
    assert of_resumed.conv_in.weight.is_contiguous(memory_format=memory_format)


def test_the_network_that_samples_has_the_averaged_weights_and_is_apart(unet, images, config):
    trainee, trained = trainee_of(unet, images, config)
    trained.train()
    for step in range(3):
        trainee.step(step)
    averaged = trainee.averaged_unet()
    expected = averaged_weights(trainee.state())
    assert_same(dict(averaged.named_parameters()), expected)
    assert not torch.equal(expected["conv_in.weight"], trained.conv_in.weight)
    assert not averaged.training
    assert trained.training
    trainee.step(3)
    assert_same(dict(averaged.named_parameters()), expected)


def test_bfloat16_is_for_the_network_alone_and_learns_the_same(unet, images, config):
    kinds, losses = [], {}
    for precision in ("float32", "bfloat16"):
        trainee, trained = trainee_of(unet, images, config.model_copy(update={"precision": precision}))
        trained.conv_in.register_forward_hook(lambda _module, _args, output: kinds.append(output.dtype))
        losses[precision] = torch.stack([trainee.step(step) for step in range(4)])
        assert {value.dtype for value in trainee.state().values() if value.is_floating_point()} == {torch.float32}
        assert {parameter.grad.dtype for parameter in trained.parameters()} == {torch.float32}
        assert losses[precision].dtype == torch.float32
    assert kinds == [torch.float32] * 4 + [torch.bfloat16] * 4
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=0.02, atol=0)
    assert not torch.equal(losses["bfloat16"], losses["float32"])


def test_initial_weights_are_a_function_of_the_seed_alone(config, info, images):
    one = built(config, info, images).state()
    torch.manual_seed(99)
    assert_same(built(config, info, images).state(), one)
    other = built(config, info, images, seed=1).state()
    assert not torch.equal(other["model.conv_in.weight"], one["model.conv_in.weight"])


@needs_compiler
def test_a_compiled_network_has_the_same_names_and_takes_the_same_checkpoint(config, info, images):
    eager, compiled = built(config, info, images), built(config, info, images, compile=True)
    assert_same(compiled.state(), eager.state())
    eager.step(0)
    compiled.load_state(eager.state())
    assert_same(compiled.state(), eager.state())


@needs_compiler
def test_a_compiled_network_takes_the_same_steps(info, images, monkeypatch):
    # Traced and differentiated as ever; that C++ is made of it, which takes a minute, the classifier's trainee tests.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    config = FitGeneratorConfig(block_out_channels=(8,), layers_per_block=1, global_batch_size=4)
    eager, compiled = built(config, info, images), built(config, info, images, compile=True)
    for step in range(3):
        torch.testing.assert_close(compiled.step(step), eager.step(step), rtol=1e-4, atol=1e-5)
    assert compiled._unet._compiled_call_impl is not None
    assert compiled.averaged_unet()._compiled_call_impl is None


def test_workers_without_a_compiler_say_so_before_they_train(config, info, images, monkeypatch):
    monkeypatch.setenv("PATH", "")
    built(config, info, images)
    with pytest.raises(ConfigError) as error:
        built(config, info, images, compile=True)
    assert str(error.value) == (
        "fit_generator.compile must be false where the workers have no C++ compiler, got True; "
        "install g++ there, or leave it out."
    )
