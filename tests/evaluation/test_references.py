"""What a reference to networks names: one grammar, for all that ask it."""

from __future__ import annotations

import os

import pytest

from sio_ray.config import load_config
from sio_ray.evaluation.foreign import SOURCES
from sio_ray.evaluation.references import SOURCE_NAMES, members_in, path_in, paths_in
from sio_ray.stages.layout import evaluate_place


def test_every_source_has_its_name():
    assert set(SOURCES) == set(SOURCE_NAMES)


@pytest.mark.parametrize(
    ("reference", "paths"),
    [
        ("runs/seed0", ["runs/seed0"]),
        ("runs/seed0+runs/seed1", ["runs/seed0", "runs/seed1"]),
        ("/home/me@lab/why?/seed0", ["/home/me@lab/why?/seed0"]),
        ("/disk:1/seed0", ["/disk:1/seed0"]),
        ("openood:best.ckpt?network=resnet18_32x32&normalisation=cifar10", ["best.ckpt"]),
        ("openood:/home/me@lab/best.ckpt", ["/home/me@lab/best.ckpt"]),
        ("torchvision:resnet50:IMAGENET1K_V2", [None]),
        ("timm:vit_base_patch16_224", [None]),
        (
            "timm:vit_base_patch16_224@vit.safetensors?normalisation=imagenet+runs/seed1",
            ["vit.safetensors", "runs/seed1"],
        ),
    ],
)
def test_the_paths_of_a_reference(reference, paths):
    assert [path_in(member) for member in members_in(reference)] == paths


def test_of_the_paths_those_that_are_there(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    assert paths_in(f"{here}+{tmp_path}/missing+timm:vit_base_patch16_224") == [here]


@pytest.mark.parametrize("field", ["checkpoints", "outputs"])
def test_an_evaluation_of_other_content_is_another_whatever_its_path_is_called(tmp_path, field):
    folder = tmp_path / "me@lab?"
    folder.mkdir()
    file = folder / "classifier.safetensors"
    file.write_bytes(b"one")
    config = load_config("digits", [f"output_dir={tmp_path}", f"evaluate.{field}.baseline=['{folder}']"])
    before = evaluate_place(config).folder
    assert evaluate_place(config).folder == before
    os.utime(file, (0, 0))
    assert evaluate_place(config).folder != before
