"""The sampler of our own generators: same seed same picture, and no stand-in for a picture that went wrong."""

from __future__ import annotations

import json
from functools import partialmethod

import numpy as np
import pytest
import torch
from saved_generator import SIGMA_DATA, save
from torch import nn

from sio_ray.config import GenerateConfig
from sio_ray.diffusion.gaussian import fit_gaussian
from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.schedulers import EDM_SCHEDULERS, SCHEDULERS
from sio_ray.errors import CheckpointError, GenerationError
from sio_ray.generate.generator import check_generator, find_generator
from sio_ray.generate.samplers import Sampler, open_sampler
from sio_ray.generate.samplers.edm import MAX_OVERSHOOT, load_pipeline
from sio_ray.imageset import ImageSetInfo

INFO = ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=1)
REMEDY = (
    "lower generate.guidance_scale or narrow generate.guidance_interval, keep generate.clip_denoised on, "
    "take more generate.num_inference_steps, and if that does not help look at the generator's loss curve."
)


def sampler_of(folder, info: ImageSetInfo = INFO, **changes) -> Sampler:
    generator, config = find_generator(str(folder)), GenerateConfig(**{"num_inference_steps": 3, **changes})
    check_generator(generator, config, info)
    return open_sampler(generator, config, info, "cpu")


def draw(folder, **changes) -> bytes:
    return sampler_of(folder, **changes).sample(np.array([0, 1]), [1, 2]).tobytes()


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
def test_a_picture_is_a_function_of_its_label_and_seed(generator_folder, scheduler):
    sampler = sampler_of(generator_folder, scheduler=scheduler)
    pictures = sampler.sample(np.array([0, 1, 2, 0]), [5, 6, 7, 8])
    assert pictures.shape == (4, 1, 8, 8)
    assert pictures.dtype == np.uint8
    assert sampler.device_name == f"cpu {torch.backends.cpu.get_cpu_capability()}"
    np.testing.assert_array_equal(sampler.sample(np.array([2, 1, 0, 1]), [7, 1, 8, 2])[[0, 2]], pictures[[2, 3]])
    again = sampler_of(generator_folder, scheduler=scheduler).sample(np.array([0, 1, 2, 0]), [5, 6, 7, 8])
    np.testing.assert_array_equal(again, pictures)


def test_config_decides_scheduler_steps_and_guidance_and_sigma_data_is_the_generators(generator_folder):
    variants = [
        draw(generator_folder),
        draw(generator_folder, scheduler="edm_euler"),
        draw(generator_folder, num_inference_steps=5),
        draw(generator_folder, guidance_scale=3.0),
        draw(generator_folder, guidance_scale=3.0, guidance_interval=(0.01, 5.0)),
        draw(generator_folder, dtype="bfloat16"),
    ]
    assert len(set(variants)) == len(variants)
    assert draw(generator_folder, scheduler="edm_dpmsolver_multistep") == variants[0], "the saved one"
    unet = load_pipeline(find_generator(str(generator_folder))).unet
    euler = ClassConditionalEDMPipeline(unet, EDM_SCHEDULERS["edm_euler"](sigma_data=SIGMA_DATA))
    euler.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    floats = euler([0, 1], seeds, 3, clip_denoised=True)
    assert ((floats + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() == variants[1]


def test_clip_denoised_is_on_unless_it_is_turned_off(unet, tmp_path):
    with torch.no_grad():
        unet.conv_out.bias.fill_(2.6)  # D is just above 1
    folder = save(tmp_path, unet)
    assert draw(folder) == draw(folder, clip_denoised=True)
    assert draw(folder) != draw(folder, clip_denoised=False)


def test_class_ids_say_which_of_the_generators_classes_a_label_means(generator_folder):
    plain = sampler_of(generator_folder).sample(np.array([2, 0]), [1, 2])
    two = ImageSetInfo(class_names=("c", "a"), height_px=8, width_px=8, channels=1)
    np.testing.assert_array_equal(
        sampler_of(generator_folder, two, class_ids=(2, 0)).sample(np.array([0, 1]), [1, 2]), plain
    )


def test_a_saved_gaussian_is_drawn_from_like_any_other(tmp_path):
    images = np.random.default_rng(0).integers(60, 200, (90, 1, 8, 8), dtype=np.uint8)
    folder = save(tmp_path, fit_gaussian(images, np.arange(90) % 3, 3, 2, SIGMA_DATA), ["a", "b", "c"])
    generator = find_generator(str(folder))
    assert (generator.kind, generator.num_classes, generator.image_shape) == ("edm", 3, (1, 8, 8))
    pictures = sampler_of(folder, num_inference_steps=20).sample(np.zeros(200, np.int64), range(200))
    assert pictures.mean() == pytest.approx(images[::3].mean(), abs=2)
    assert pictures.std() == pytest.approx(images[::3].std(), rel=0.05)


def test_a_compiled_network_draws_nearly_the_same_pictures(tmp_path, monkeypatch):
    # Traced as ever; that C++ is made of it, which takes half a minute, the classifier's trainee tests.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    images = np.random.default_rng(0).integers(60, 200, (30, 1, 8, 8), dtype=np.uint8)
    folder = save(tmp_path, fit_gaussian(images, np.arange(30) % 3, 3, 0, SIGMA_DATA))
    plain, compiled = (sampler_of(folder, compile=on).sample(np.array([0, 1]), [1, 2]) for on in (False, True))
    assert np.abs(plain.astype(int) - compiled).max() <= 1


@pytest.mark.parametrize(
    ("bias", "what"),
    [
        (float("nan"), "is not finite"),
        (1e6, "is blown out (its values overshoot by more than 0.25 on average)"),
        (-1e6, "is blown out (its values overshoot by more than 0.25 on average)"),
    ],
)
def test_a_picture_that_is_none_is_an_error_that_names_label_seed_and_what_to_lower(unet, tmp_path, bias, what):
    with torch.no_grad():
        unet.conv_out.bias.fill_(bias)
    with pytest.raises(GenerationError) as error:
        sampler_of(save(tmp_path, unet)).sample(np.array([2, 1]), [77, 78])
    assert str(error.value) == f"the picture of label 2, seed 77 {what}; {REMEDY}"


def test_the_first_broken_picture_is_the_one_named(unet, tmp_path):
    with torch.no_grad():
        unet.class_embedding.weight[1] = float("nan")
    with pytest.raises(GenerationError, match=r"^the picture of label 1, seed 44 is not finite; "):
        sampler_of(save(tmp_path, unet)).sample(np.array([0, 2, 1, 1]), [42, 43, 44, 45])


def black_and_white(rng: np.random.Generator, count: int, share_white: float) -> np.ndarray:
    return np.where(rng.random((count, 1, 8, 8)) < share_white, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("share_white", [0.02, 0.5])
def test_pictures_that_are_all_black_and_white_by_nature_are_no_blow_out(tmp_path, share_white):
    patterns = black_and_white(np.random.default_rng(1), 3, share_white)
    noise = np.random.default_rng(0).integers(0, 4, (90, 1, 8, 8))
    images = np.abs(patterns[np.arange(90) % 3].astype(int) - noise).astype(np.uint8)
    folder = save(tmp_path, fit_gaussian(images, np.arange(90) % 3, 3, 0, SIGMA_DATA))
    for clip_denoised in (False, True):
        sampler = sampler_of(folder, num_inference_steps=12, clip_denoised=clip_denoised)
        pictures = sampler.sample(np.arange(60) % 3, range(60))
        assert np.isin(pictures, (0, 255)).mean() > 0.1
        assert np.abs(pictures.astype(int) - patterns[np.arange(60) % 3]).mean() < 15


def test_guidance_that_burns_the_greys_away_is_a_blow_out_and_clipping_hides_none(tmp_path):
    rng = np.random.default_rng(0)
    means = rng.integers(40, 215, (3, 1, 8, 8))
    images = np.clip(means[np.arange(90) % 3] + rng.normal(0, 25, (90, 1, 8, 8)), 0, 255).astype(np.uint8)
    folder = save(tmp_path, fit_gaussian(images, np.arange(90) % 3, 3, 0, SIGMA_DATA))
    options = {"num_inference_steps": 12, "clip_denoised": False}
    labels, seeds = np.array([1, 0]), [5, 6]
    sampler_of(folder, guidance_scale=1.5, **options).sample(labels, seeds)
    with pytest.raises(GenerationError, match=rf"label 1, seed 5 is blown out .* more than {MAX_OVERSHOOT} on average"):
        sampler_of(folder, guidance_scale=30.0, **options).sample(labels, seeds)
    clipped = {"num_inference_steps": 12, "clip_denoised": True}
    sampler_of(folder, guidance_scale=4.0, **clipped).sample(labels, seeds)
    with pytest.raises(GenerationError, match=r"label 1, seed 5 is blown out \(its steps overshoot by more than 1 "):
        sampler_of(folder, guidance_scale=30.0, **clipped).sample(labels, seeds)


def test_memory_that_runs_out_is_not_called_anything_else(generator_folder, monkeypatch):
    sampler = sampler_of(generator_folder)

    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ClassConditionalEDMPipeline, "__call__", full)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        sampler.sample(np.array([0]), [1])


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def truncate(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def change(folder, name, **changes):
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
        lambda folder: change(folder, "unet/config.json", block_out_channels=[8, 24]),
        lambda folder: change(folder, "unet/config.json", _class_name="VQModel"),
        lambda folder: change(folder, "scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
    ],
    ids=["truncated", "empty", "other_width", "other_network", "other_scheduler"],
)
def test_weights_that_do_not_load_are_one_clear_error(generator_folder, damage):
    damage(generator_folder)
    with pytest.raises(CheckpointError) as error:
        load_pipeline(find_generator(str(generator_folder)))
    message = str(error.value)
    assert message.startswith(f"{generator_folder} holds no ClassConditionalEDMPipeline that loads (")
    assert message.endswith("); give generate.generator a folder that fit-generator wrote.")
    assert "\n" not in message
