"""A job is made where the driver is, and drawn from where a worker is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.config import load_config
from sio_ray.stages.generate import make_job


def test_paths_of_the_config_are_found_from_another_working_directory(
    generator_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = Architecture(
        network="small_cnn", width=4, class_names=("0", "1", "2"), image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)
    )
    save_classifier(tmp_path / "classifier", architecture, Classifier(architecture).state_dict())
    monkeypatch.chdir(tmp_path)
    given = ("num_images=6", f"generator={generator_folder.name}", "curation.classifier=classifier", "output=set")
    job = make_job(load_config("digits", [f"generate.{each}" for each in given]))
    job.begin()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    copy.deepcopy(job).make_writer()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["plan.json"]
