"""A generator is known from its JSON files: family, classes and size; and it never brings code or pickles."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from saved_generator import SIDE_PX, save, save_dit, save_stable_diffusion

from sio_ray.config import GenerateConfig
from sio_ray.errors import CheckpointError
from sio_ray.generate.generator import find_generator
from sio_ray.generate.generator.find import text_to_image_pipelines
from sio_ray.generate.samplers import open_sampler
from sio_ray.imageset import ImageSetInfo

SMALL = {
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(name: object) -> str:
    with pytest.raises(CheckpointError) as error:
        find_generator(str(name))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def dit_folder(tmp_path_factory) -> Path:
    labels = {label: f"class {label // 2 * 2 if label < 4 else label}, a bird" for label in range(1000)}
    return save_dit(tmp_path_factory.mktemp("dit") / "model", id2label=labels)


@pytest.fixture
def dit(dit_folder, tmp_path) -> Path:
    return shutil.copytree(dit_folder, tmp_path / "dit")


def test_each_family_is_recognised_with_its_classes_and_its_size(unet, dit_folder, tmp_path):
    ours = find_generator(str(save(tmp_path / "ours", unet, ["ape", "bee", "cat"])))
    assert (ours.kind, ours.num_classes, ours.image_shape) == ("edm", 3, (1, 8, 8))
    assert ours.class_names == ("ape", "bee", "cat")
    assert find_generator(str(save(tmp_path / "unnamed", unet))).class_names is None
    dit = find_generator(str(dit_folder))
    assert (dit.kind, dit.num_classes, dit.image_shape) == ("dit", 1000, (3, SIDE_PX, SIDE_PX))
    assert dit.class_names is not None
    assert dit.class_names[:2] == ("class 0, a bird (0)", "class 0, a bird (1)"), "two of one name are told apart"
    assert dit.class_names[999] == "class 999, a bird"
    assert len(set(dit.class_names)) == 1000
    text = find_generator(str(save_stable_diffusion(tmp_path / "text")))
    assert (text.kind, text.num_classes, text.class_names) == ("text_to_image", None, None)
    assert text.image_shape == (3, SIDE_PX, SIDE_PX)
    for generator in (ours, dit, text):
        assert pickle.loads(pickle.dumps(generator)) == generator  # noqa: S301
        assert Path(generator.location).is_absolute()
        assert generator.revision is None


def test_two_class_names_are_no_component(tmp_path):
    unet = UNet2DModel(sample_size=(6, 10), in_channels=3, out_channels=3, num_class_embeds=3, **SMALL)
    generator = find_generator(str(save(tmp_path, unet, ["library", "class"])))
    assert generator.class_names == ("library", "class")
    assert generator.image_shape == (3, 6, 10)


def test_the_content_id_changes_with_a_byte_or_a_name_and_not_with_the_place(generator_folder, tmp_path):
    first = find_generator(str(generator_folder)).content_id
    copy = shutil.copytree(generator_folder, tmp_path / "copy")
    assert find_generator(str(copy)).content_id == first
    (copy / ".cache").mkdir()
    (copy / ".cache/x").write_text("hidden")
    assert find_generator(str(copy)).content_id == first
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    changed = find_generator(str(copy)).content_id
    weights.write_bytes(data)
    (copy / "note.txt").write_text("")
    noted = find_generator(str(copy)).content_id
    (copy / "note.txt").rename(copy / "remark.txt")
    assert len({first, changed, noted, find_generator(str(copy)).content_id}) == 4


def test_a_hub_id_is_resolved_once_to_the_commit_in_the_cache(dit_folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--dit"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    shutil.copytree(dit_folder, cached / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    generator = find_generator("someone/dit")
    assert (generator.location, generator.revision) == ("someone/dit", commit)
    assert generator.content_id == f"someone/dit@{commit}"
    assert generator.class_names == find_generator(str(dit_folder)).class_names
    (cached / "refs/v1").write_text(commit)
    assert find_generator("someone/dit@v1") == generator
    # The branch moves on; the workers still load what was found.
    (cached / "refs/main").write_text("f" * 40)
    info = ImageSetInfo(class_names=("a", "b"), height_px=SIDE_PX, width_px=SIDE_PX, channels=3)
    config = GenerateConfig(class_ids=(3, 4), num_inference_steps=2)
    samplers = (open_sampler(find, config, info, "cpu") for find in (generator, find_generator(str(dit_folder))))
    drawn = [sampler.sample(np.array([0, 1]), [1, 2]) for sampler in samplers]
    np.testing.assert_array_equal(*drawn)
    message = refusal("someone/else")
    assert message.startswith(
        "generate.generator someone/else is no folder here, and the hub and its cache have no such pipeline (Local"
    )
    assert message.endswith("); look for a typing error, or download it first.")


def test_what_is_neither_a_folder_nor_a_hub_id_is_said_to_be_neither(tmp_path):
    assert refusal(tmp_path / "nowhere") == (
        f"generate.generator {tmp_path}/nowhere is no folder, and no hub id such as facebook/DiT-XL-2-256; "
        "run `sio-ray fit-generator`, or give one that is there."
    )
    assert refusal(tmp_path) == (
        f"{tmp_path} is no diffusers folder (it has no model_index.json); "
        "run `sio-ray fit-generator`, or give generate.generator a folder that it wrote."
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "unet/config.json").write_text("{"),
        lambda folder: (folder / "unet/config.json").write_text("{}"),
        lambda folder: (folder / "model_index.json").write_text("{"),
        lambda folder: (folder / "model_index.json").write_text("[]"),
        lambda folder: (folder / "model_index.json").write_text("{}"),
        lambda folder: change(folder / "model_index.json", class_names=["too", "few"]),
        lambda folder: shutil.rmtree(folder / "unet"),
        lambda folder: shutil.rmtree(folder / "scheduler"),
    ],
    ids=["bad_config", "empty_config", "bad_index", "list_index", "empty_index", "names", "no_unet", "no_scheduler"],
)
def test_a_damaged_folder_is_one_clear_error(generator_folder, damage):
    damage(generator_folder)
    message = refusal(generator_folder)
    if "takes no class" not in message:
        assert message.startswith(f"{generator_folder} holds no generator that can be read (")
        assert message.endswith("); give generate.generator a folder that fit-generator or diffusers wrote, whole.")


def test_a_unet_without_classes_is_refused(tmp_path):
    plain = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **SMALL)
    assert refusal(save(tmp_path / "ours", plain)) == (
        f"the UNet in {tmp_path}/ours takes no class; "
        "give generate.generator a class-conditional one, as fit-generator writes."
    )
    DDPMPipeline(plain, DDPMScheduler()).save_pretrained(str(tmp_path / "other"), safe_serialization=True)
    message = refusal(tmp_path / "other")
    assert message.startswith(
        f"{tmp_path}/other is a DDPMPipeline, which sio_ray cannot draw from; give generate.generator what "
        "fit-generator writes (ClassConditionalEDMPipeline), a DiTPipeline, or a text-to-image pipeline: "
    )
    assert ", StableDiffusionPipeline, " in message


def test_text_to_image_pipelines_are_those_that_need_a_prompt_alone():
    names = set(text_to_image_pipelines())
    assert {"StableDiffusionPipeline", "StableDiffusion3Pipeline", "PixArtSigmaPipeline", "FluxPipeline"} < names
    assert not {name for name in names if "ControlNet" in name or "Combined" in name or "Img2Img" in name}


def test_a_text_to_image_generator_without_transformers_says_what_to_install(tmp_path, monkeypatch):
    folder = save_stable_diffusion(tmp_path / "text")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find_spec(name))
    assert refusal(folder) == (
        "text-to-image generators need the package transformers, which is not installed; "
        "pip install 'sio_ray[text-to-image]'."
    )


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_pickled_weights_are_refused_before_anything_is_loaded(dit, component):
    (dit / component / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, dit / component / "diffusion_pytorch_model.bin")
    assert refusal(dit) == (
        f"{dit} has no safetensors for its {component} (only {component}/config.json, "
        f"{component}/diffusion_pytorch_model.bin), and pickles are not read, as they can run code; "
        "save it with diffusers' `save_pretrained(..., safe_serialization=True)`, "
        "or name a revision of the hub that has them (org/name@refs/pr/1)."
    )


@pytest.mark.parametrize(
    ("changes", "file", "named"),
    [
        ({"_class_name": ["pipeline", "MyPipeline"]}, "pipeline.py", "_class_name: pipeline.MyPipeline"),
        ({"transformer": ["my_transformer", "MyTransformer"]}, "transformer/my_transformer.py", "my_transformer.My"),
        ({"transformer": ["os", "PathLike"]}, None, "transformer: os.PathLike"),
        ({}, "transformer/diffusers.py", "transformer: diffusers.DiTTransformer2DModel"),
    ],
)
def test_custom_code_is_refused_and_not_run(dit, changes, file, named):
    if file is not None:
        (dit / file).write_text("raise SystemExit('run')")
    change(dit / "model_index.json", **changes)
    message = refusal(dit)
    assert message.startswith(f"{dit} names code of its own in model_index.json (")
    assert named in message
    assert message.endswith("), which is never run; use a pipeline whose classes are diffusers' own.")
