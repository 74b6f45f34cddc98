"""A finished set is taken again as long as it is the one that was drawn; what has changed since is said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from saved_generator import save

from sio_ray.config import Config, load_config
from sio_ray.errors import StageError
from sio_ray.generate import job as job_module
from sio_ray.generate.job import Job
from sio_ray.generate.notes import Seconds
from sio_ray.imageset import Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.stages import generate as stage


@pytest.fixture(autouse=True)
def _draw_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, one shard after the other, where actors of Ray would."""

    def draw(config: Config, job: Job) -> Seconds:
        writer, plan = job.make_writer(), job.plan
        entries = tuple(writer.do(shard_id).entry for shard_id in range(plan.num_shards))
        Manifest(
            info=job.full_info, num_images=plan.num_images, class_counts=plan.class_counts(), shards=entries
        ).write(job.folder)
        return Seconds()

    monkeypatch.setattr(stage, "_draw", draw)


@pytest.fixture
def config(generator_folder: Path, tmp_path: Path) -> Config:
    return config_in(tmp_path, generator_folder)


def config_in(folder: Path, generator_folder: Path, *overrides: str) -> Config:
    small = ("num_images=6", "images_per_shard=3", "sampler_batch_size=3", "num_inference_steps=2")
    given = [f"generate.{each}" for each in (*small, f"generator={generator_folder}", f"output={folder / 'set'}")]
    return load_config("digits", [f"output_dir={folder / 'runs'}", *given, *overrides])


def content_id(config: Config) -> str:
    return Manifest.read(Folder(str(config.generate.output))).content_id


def test_a_set_is_drawn_once(config: Config) -> None:
    drawn = stage.generate(config)
    assert drawn.result["content_id"] == content_id(config)
    assert stage.generate(config) == drawn.model_copy(update={"reused": True})


def test_a_set_in_whose_place_another_config_has_drawn_is_not_taken_for_ones_own(
    config: Config, generator_folder: Path, tmp_path: Path
) -> None:
    other = config_in(tmp_path, generator_folder, "generate.base_seed=1")
    stage.generate(config)
    shutil.rmtree(tmp_path / "set")
    theirs = stage.generate(other)
    assert content_id(config) == theirs.result["content_id"]
    with pytest.raises(StageError, match=r"\n  generate\.base_seed: 1 -> 0\n"):
        stage.generate(config)
    assert stage.generate(other).reused
    shutil.rmtree(tmp_path / "set")
    assert stage.generate(config).result["content_id"] == content_id(config) != theirs.result["content_id"]


def another(unet: UNet2DModel) -> UNet2DModel:
    """It draws other pictures."""
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.01)
    return unet


def test_a_generator_that_was_replaced_at_its_path_is_noticed_and_one_that_is_gone_is_not_missed(
    config: Config, generator_folder: Path, unet: UNet2DModel, tmp_path: Path
) -> None:
    first = stage.generate(config)
    generator_folder.rename(tmp_path / "kept")
    assert stage.generate(config).reused
    save(generator_folder, another(unet))
    for _ in range(2):  # the record is still there
        with pytest.raises(StageError) as error:
            stage.generate(config)
        head, change, remedy = str(error.value).splitlines()
        assert head == f"{tmp_path / 'set'} was begun with other settings, so its bytes would not match:"
        assert re.fullmatch(r"  generator: '\w{64}' -> '\w{64}'", change)
        assert remedy == "Go back to those, give another generate.output, or delete it to draw it anew."
    shutil.rmtree(generator_folder)
    (tmp_path / "kept").rename(generator_folder)
    assert stage.generate(config).reused
    shutil.rmtree(tmp_path / "set")
    save(generator_folder, another(unet))
    assert stage.generate(config).result["content_id"] != first.result["content_id"]


def test_what_was_drawn_with_other_versions_is_finished_all_the_same(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.generate(config)
    monkeypatch.setattr(job_module, "versions", lambda: dict.fromkeys(job_module._DECISIVE_PACKAGES, "0"))
    assert stage.generate(config).reused
