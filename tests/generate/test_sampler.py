"""The sampler: same seed same picture, and no stand-in for a picture that went wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, EDMEulerScheduler, UNet2DModel
from saved_generator import SIGMA_DATA, save

from sio_ray.config import GenerateConfig
from sio_ray.diffusion.pipeline import SCHEDULERS, ClassConditionalEDMPipeline
from sio_ray.errors import CheckpointError, GenerationError
from sio_ray.generate.sampler import PipelineSampler, load_pipeline


def sampler_of(folder, **changes) -> PipelineSampler:
    return PipelineSampler(folder, GenerateConfig(**{"num_inference_steps": 3, **changes}))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_picture_is_a_function_of_its_label_and_seed(generator_folder, scheduler):
    sampler = sampler_of(generator_folder, scheduler=scheduler)
    pictures = sampler.sample(np.array([0, 1, 2, 0]), [5, 6, 7, 8])
    assert pictures.shape == (4, 1, 8, 8)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(sampler.sample(np.array([2, 1, 0, 1]), [7, 1, 8, 2])[[0, 2]], pictures[[2, 3]])
    again = sampler_of(generator_folder, scheduler=scheduler).sample(np.array([0, 1, 2, 0]), [5, 6, 7, 8])
    np.testing.assert_array_equal(again, pictures)


def test_config_decides_scheduler_steps_and_guidance_and_sigma_data_is_the_generators(generator_folder):
    def draw(**changes) -> bytes:
        return sampler_of(generator_folder, **changes).sample(np.array([0, 1]), [1, 2]).tobytes()

    variants = [draw(), draw(scheduler="edm_euler"), draw(num_inference_steps=5), draw(guidance_scale=3.0)]
    assert len(set(variants)) == 4
    pipeline = load_pipeline(generator_folder)
    euler = ClassConditionalEDMPipeline(pipeline.unet, EDMEulerScheduler(sigma_data=SIGMA_DATA))
    euler.set_progress_bar_config(disable=True)
    floats = euler([0, 1], [torch.Generator().manual_seed(s) for s in (1, 2)], 3)
    assert ((floats + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() == variants[1]


@pytest.mark.parametrize(("bias", "what"), [(float("nan"), "NaN"), (1e6, "all white"), (-1e6, "all black")])
def test_a_constant_or_nan_picture_is_an_error_that_names_label_and_seed(unet, tmp_path, bias, what):
    with torch.no_grad():
        unet.conv_out.bias.fill_(bias)
    sampler = sampler_of(save(tmp_path, unet))
    with pytest.raises(GenerationError) as error:
        sampler.sample(np.array([2, 1]), [77, 78])
    assert str(error.value) == (
        "the picture of label 2, seed 77 is constant or not finite; "
        "look at the generator's loss curve, or use another scheduler or a lower generate.guidance_scale."
    )


def test_the_first_broken_picture_is_the_one_named(unet, tmp_path):
    with torch.no_grad():
        unet.class_embedding.weight[1] = float("nan")
    with pytest.raises(GenerationError, match=r"^the picture of label 1, seed 44 is constant or not finite; "):
        sampler_of(save(tmp_path, unet)).sample(np.array([0, 2, 1, 1]), [42, 43, 44, 45])


def test_a_folder_that_is_no_diffusers_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError) as error:
        load_pipeline(tmp_path / "nowhere")
    assert str(error.value) == (
        f"{tmp_path}/nowhere is no diffusers folder (it has no model_index.json); "
        "run `sio-ray fit-generator`, or give generate.generator a folder that it wrote."
    )


def test_a_unet_without_classes_is_refused(tmp_path):
    plain = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        norm_num_groups=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    with pytest.raises(CheckpointError) as error:
        load_pipeline(save(tmp_path / "ours", plain))
    assert str(error.value) == (
        f"the UNet in {tmp_path}/ours takes no class; "
        "give generate.generator a class-conditional one, as fit-generator writes."
    )
    DDPMPipeline(plain, DDPMScheduler()).save_pretrained(str(tmp_path / "other"), safe_serialization=True)
    with pytest.raises(CheckpointError, match=r"other (takes no class|holds no ClassConditionalEDMPipeline)"):
        load_pipeline(tmp_path / "other")


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def truncate(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def of_another_width(folder):
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "block_out_channels": [8, 24]}))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        of_another_width,
        lambda folder: (folder / WEIGHTS).unlink(),
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
        lambda folder: (folder / "unet/config.json").write_text("{"),
        lambda folder: (folder / "model_index.json").write_text("{"),
        lambda folder: (folder / "model_index.json").write_text("[]"),
        lambda folder: (folder / "model_index.json").write_text("{}"),
        lambda folder: shutil.rmtree(folder / "unet"),
        lambda folder: shutil.rmtree(folder / "scheduler"),
    ],
    ids=[
        "truncated",
        "other_width",
        "no_weights",
        "empty_weights",
        "bad_config",
        "bad_index",
        "list_index",
        "empty_index",
        "no_unet",
        "no_sched",
    ],
)
def test_a_damaged_folder_is_one_clear_error(generator_folder, damage):
    damage(generator_folder)
    with pytest.raises(CheckpointError) as error:
        load_pipeline(generator_folder)
    message = str(error.value)
    assert message.startswith(f"{generator_folder} holds no ClassConditionalEDMPipeline that loads (")
    assert message.endswith("); give generate.generator a folder that fit-generator wrote.")
    assert "\n" not in message


def test_pickled_weights_are_not_read(generator_folder):
    (generator_folder / WEIGHTS).unlink()
    torch.save({}, generator_folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no ClassConditionalEDMPipeline that loads"):
        load_pipeline(generator_folder)
