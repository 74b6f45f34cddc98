"""Pipelines of diffusers: classes and prompts reach the network, one seed per picture, and shapes are the set's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, EulerDiscreteScheduler
from PIL import Image
from saved_generator import SIDE_PX, save_dit, save_stable_diffusion

from sio_ray.config import GenerateConfig
from sio_ray.errors import CheckpointError, GenerationError
from sio_ray.generate.generator import check_generator, find_generator
from sio_ray.generate.samplers import Sampler, foreign, open_sampler
from sio_ray.generate.samplers.pictures import MIN_SHARE_OF_GREYS, fit_to_set
from sio_ray.imageset import ImageSetInfo

INFO = ImageSetInfo(class_names=("cat", "dog", "whale"), height_px=SIDE_PX, width_px=SIDE_PX, channels=3)
#: Class ids for the one that has them.
IDS = {"dit": {"class_ids": (7, 5, 999)}, "stable_diffusion": {}}
LABELS, SEEDS = np.array([0, 1, 2, 0]), [5, 6, 7, 8]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("generators")
    return {"dit": save_dit(root / "dit"), "stable_diffusion": save_stable_diffusion(root / "stable_diffusion")}


def sampler_of(folder: Path, info: ImageSetInfo = INFO, **changes) -> Sampler:
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, **IDS.get(folder.name, {}), **changes}
    generator, config = find_generator(str(folder)), GenerateConfig(**options)
    check_generator(generator, config, info)
    return open_sampler(generator, config, info, "cpu")


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("scheduler", [None, "unipc"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_picture_is_a_function_of_its_label_and_seed(folders, name, scheduler, dtype):
    sampler = sampler_of(folders[name], scheduler=scheduler, dtype=dtype)
    pictures = sampler.sample(LABELS, SEEDS)
    assert pictures.shape == (4, *INFO.image_shape)
    assert pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert pictures.std() > 20, "a grey picture would prove nothing"
    np.testing.assert_array_equal(sampler.sample(np.array([2, 1, 0, 1]), [7, 1, 8, 2])[[0, 2]], pictures[[2, 3]])


#: Schedulers that add noise in every step.
NOISY = {
    "DDPMScheduler": {"clip_sample": False},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "LCMScheduler": {"clip_sample": False},
}


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("kind", NOISY)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_the_noise_of_a_schedulers_steps_follows_from_the_seeds(folders, name, kind, guidance_scale, tmp_path):
    folder = tmp_path / name
    shutil.copytree(folders[name], folder)
    saved = folder / "scheduler" / "scheduler_config.json"
    saved.write_text(json.dumps({"_class_name": kind, "steps_offset": 1, **NOISY[kind]}))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", kind]}))
    for scheduler in (None, "dpmsolver_multistep") if "algorithm_type" in NOISY[kind] else (None,):
        sampler = sampler_of(folder, scheduler=scheduler, guidance_scale=guidance_scale, num_inference_steps=4)
        pictures = sampler.sample(LABELS, SEEDS)
        torch.manual_seed(1)
        np.testing.assert_array_equal(sampler.sample(np.array([2, 1, 0, 1]), [7, 1, 8, 2])[[0, 2]], pictures[[2, 3]])


@pytest.mark.parametrize("name", IDS)
def test_every_scheduler_is_used_and_nearly_all_differ(folders, name):
    names = [None, "ddim", "dpmsolver_multistep", "unipc", "deis"] + ["euler"] * (name != "dit")
    drawn = {scheduler: sampler_of(folders[name], scheduler=scheduler).sample(LABELS, SEEDS) for scheduler in names}
    np.testing.assert_array_equal(drawn[None], drawn["ddim"])  # the one saved with both
    assert len({drawn[scheduler].tobytes() for scheduler in ("ddim", "dpmsolver_multistep", "unipc", "deis")}) == 4
    if name != "dit":
        # One rule under two names.
        assert np.abs(drawn["euler"].astype(int) - drawn["ddim"]).max() <= 1


def test_class_ids_and_the_null_class_reach_the_transformer(folders, monkeypatch):
    asked = []
    forward = DiTTransformer2DModel.forward

    def spy(self, *args, class_labels, **kwargs):
        asked.append(class_labels.tolist())
        return forward(self, *args, class_labels=class_labels, **kwargs)

    monkeypatch.setattr(DiTTransformer2DModel, "forward", spy)
    sampler_of(folders["dit"]).sample(np.array([2, 0]), [1, 2])
    assert asked == [[999, 7, 1000, 1000]] * 3
    asked.clear()
    sampler_of(folders["dit"], guidance_scale=1.0).sample(np.array([2, 0]), [1, 2])
    assert asked == [[999, 7]] * 3


def test_one_prompt_per_class_and_the_negative_prompt_reach_the_pipeline(folders):
    folder = folders["stable_diffusion"]

    def draw(label: int = 0, **changes) -> bytes:
        return sampler_of(folder, **changes).sample(np.array([label]), [3]).tobytes()

    assert len({draw(), draw(1), draw(prompt="{class_name} drawn"), draw(negative_prompt="dull")}) == 4
    # A class is nothing but its prompt.
    renamed = INFO.model_copy(update={"class_names": ("cat", "whale", "dog")})
    moved = sampler_of(folder, renamed).sample(np.array([2]), [3]).tobytes()
    assert moved == draw(1)
    sampler = sampler_of(folder, negative_prompt="dull", prompt="a {class_name}")
    calls = []
    pipeline = sampler._pipeline
    sampler._pipeline = lambda **options: (calls.append(options), pipeline(**options))[1]
    sampler.sample(np.array([1, 0]), [3, 4])
    assert calls[0]["prompt"] == ["a dog", "a cat"]
    assert calls[0]["negative_prompt"] == ["dull", "dull"]
    assert (calls[0]["height"], calls[0]["width"]) == (SIDE_PX, SIDE_PX)


@pytest.mark.parametrize("name", IDS)
def test_a_network_in_bfloat16_is_decoded_in_float32(folders, name, monkeypatch):
    kinds = []
    decode = AutoencoderKL._decode

    def spy(self, z, *args, **kwargs):
        kinds.append((z.dtype, self.dtype))
        return decode(self, z, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "_decode", spy)
    sampler = sampler_of(folders[name], dtype="bfloat16")
    sampler.sample(LABELS, SEEDS)
    assert kinds == [(torch.float32, torch.float32)]
    network = sampler._pipeline.transformer if name == "dit" else sampler._pipeline.unet
    assert network.dtype == torch.bfloat16


@pytest.mark.parametrize(("channels", "side_px"), [(1, 8), (3, 24), (1, 16)])
def test_pictures_are_resized_and_brought_to_the_sets_channels(folders, channels, side_px):
    info = INFO.model_copy(update={"height_px": side_px, "width_px": side_px, "channels": channels})
    plain = sampler_of(folders["dit"]).sample(LABELS, SEEDS)
    fitted = sampler_of(folders["dit"], info, image_size_px=side_px).sample(LABELS, SEEDS)
    assert fitted.shape == (4, channels, side_px, side_px)
    picture = Image.fromarray(plain[1].transpose(1, 2, 0)).convert("L" if channels == 1 else "RGB")
    expected = np.asarray(picture.resize((side_px, side_px), Image.Resampling.BICUBIC))
    found = fitted[1, 0] if channels == 1 else fitted[1].transpose(1, 2, 0)
    np.testing.assert_array_equal(found, expected)


def test_a_wide_picture_is_scaled_by_its_shorter_side_and_cut_in_the_middle():
    wide = np.zeros((1, 1, 8, 24), np.uint8)
    wide[..., 8:16] = 200
    square = fit_to_set(wide, ImageSetInfo(class_names=("a",), height_px=8, width_px=8, channels=3))
    assert square.shape == (1, 3, 8, 8)
    assert (square == 200).all()
    same = ImageSetInfo(class_names=("a",), height_px=8, width_px=24, channels=1)
    assert fit_to_set(wide, same) is wide


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda pictures: pictures * float("nan"), "is not finite"),
        (lambda pictures: pictures * 0 + 0.5, "is constant"),
        (lambda pictures: (pictures > 0.5).float(), "is blown out to black and white"),
    ],
)
def test_a_picture_that_is_none_is_an_error_that_names_label_and_seed(folders, spoil, what, monkeypatch):
    good = torch.rand(4, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    bad = good.clone()
    bad[2:] = spoil(good[2:])
    generator, config = find_generator(str(folders["dit"])), GenerateConfig(**IDS["dit"])
    assert foreign.finish(good, generator, config, INFO, LABELS, SEEDS).shape == good.shape
    with pytest.raises(GenerationError) as error:
        foreign.finish(bad, generator, config, INFO, LABELS, SEEDS)
    assert str(error.value) == (
        f"the picture of label 2, seed 7 {what}; lower generate.guidance_scale, or use another generate.scheduler, "
        "more generate.num_inference_steps or generate.dtype=float32."
    )


def test_a_digit_on_black_is_no_blow_out(folders):
    digit = torch.zeros(4, 3, SIDE_PX, SIDE_PX)
    digit[:, :, 4:12, 6:9] = 1
    digit[:, :, 4:12, 5] = 0.4  # its soft edge: 8 of 256 pixels
    assert MIN_SHARE_OF_GREYS < 8 / 256
    generator, config = find_generator(str(folders["dit"])), GenerateConfig(**IDS["dit"])
    foreign.finish(digit, generator, config, INFO, LABELS, SEEDS)


def test_pictures_of_another_shape_are_an_error_where_nothing_says_to_resize_them(folders):
    generator, config = find_generator(str(folders["dit"])), GenerateConfig(**IDS["dit"])
    with pytest.raises(GenerationError) as error:
        foreign.finish(torch.rand(4, 3, 8, 8), generator, config, INFO, LABELS, SEEDS)
    assert str(error.value) == (
        f"{folders['dit']} draws pictures of shape (3, 8, 8), the set has (3, 16, 16); "
        "set generate.image_size_px, so that they are resized."
    )


def test_the_safety_checker_is_never_loaded(folders, tmp_path):
    folder = save_stable_diffusion(tmp_path / "stable_diffusion")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps({**index, "requires_safety_checker": True}))
    sampler = sampler_of(folder)  # there are no weights of it to load
    assert sampler._pipeline.safety_checker is None
    np.testing.assert_array_equal(
        sampler.sample(LABELS, SEEDS), sampler_of(folders["stable_diffusion"]).sample(LABELS, SEEDS)
    )


def test_weights_that_do_not_load_are_one_clear_error(tmp_path):
    folder = save_dit(tmp_path / "dit")
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError) as error:
        sampler_of(folder)
    assert str(error.value).startswith(f"{folder} holds no DiTPipeline that loads (")
    assert str(error.value).endswith(
        "); give generate.generator a folder that diffusers wrote with safetensors, whole."
    )


def test_why_a_dit_refuses_euler(folders):
    """Its pipeline starts from noise of deviation 1, whatever the scheduler asks for."""
    pipeline = sampler_of(folders["dit"])._pipeline
    scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    assert scheduler.init_noise_sigma > 2
    first = []
    scheduler.scale_model_input, scale = (lambda x, t: (first.append(x), scale(x, t))[1]), scheduler.scale_model_input
    pipeline.scheduler = scheduler
    seeds = [torch.Generator().manual_seed(seed) for seed in range(8)]
    pipeline([0] * 8, guidance_scale=1.0, generator=seeds, num_inference_steps=1, output_type="pt")
    assert float(first[0].std()) == pytest.approx(1, abs=0.1)
