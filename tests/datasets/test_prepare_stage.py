"""The stage: the same sets with and without Ray, what is kept on a second run, and what the record says."""

import itertools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray import cloudpickle

from sio_ray.config import load_config
from sio_ray.datasets import writing
from sio_ray.datasets.source import FileSet
from sio_ray.datasets.writing import commit, shard_tasks
from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset import ImageSet, ImageSetInfo
from sio_ray.imageset.storage import Folder
from sio_ray.stages import prepare as stage
from sio_ray.stages.prepare import prepare

# The workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(height_px=8, width_px=8, channels=1)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pictures"
    for name in ("train/cat", "train/dog", "near_ood/fox", "far_ood/car"):
        (root / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (12, 10), (10 * number, len(name), 7)).save(root / name / f"{number}.png")
    return root


def config(root, folder, *overrides):
    source = (
        "prepare.source=image_folder",
        f"prepare.root={root}",
        "prepare.image_size_px=8",
        "prepare.num_outliers=5",
    )
    return load_config("digits", [*source, f"output_dir={folder}", *overrides])


def manifests(outcome):
    return {path.parent.relative_to(outcome.output): path.read_text() for path in outcome.output.rglob("manifest.json")}


def test_what_another_driver_has_finished_in_the_meantime_is_left_as_it_is(root, tmp_path, monkeypatch):
    both, load, states = config(root, tmp_path / "runs"), stage.load_source, []

    def finish_first(section):
        monkeypatch.setattr(stage, "load_source", load)
        other = prepare(both)
        states.append({path: path.stat().st_mtime_ns for path in other.output.rglob("*/manifest.json")})
        return load(section)

    monkeypatch.setattr(stage, "load_source", finish_first)
    outcome = prepare(both)
    states.append({path: path.stat().st_mtime_ns for path in outcome.output.rglob("*/manifest.json")})
    assert states[0] == states[1], "somebody may have been reading them"
    assert prepare(both) == outcome.model_copy(update={"reused": True})


def test_a_run_on_a_cluster_gives_the_same_bytes(root, tmp_path, monkeypatch, ray_cluster):
    monkeypatch.setattr(writing, "_MAX_IMAGES_PER_SHARD", 4)
    here = prepare(config(root, tmp_path / "here"))
    monkeypatch.setattr(stage, "_MIN_FILES_FOR_RAY", 1)
    there = prepare(config(root, tmp_path / "there"))
    assert manifests(here) == manifests(there)
    assert len(manifests(here)) == 9


def test_a_corrupt_picture_stops_or_is_skipped_and_listed(root, tmp_path, monkeypatch, ray_cluster, capsys):
    (root / "near_ood" / "fox" / "3.png").write_bytes(b"no picture")
    (root / "train" / "dog" / "5.png").write_bytes(b"no picture")
    for min_files in (stage._MIN_FILES_FOR_RAY, 1):
        monkeypatch.setattr(stage, "_MIN_FILES_FOR_RAY", min_files)
        folder = tmp_path / f"from-{min_files}"
        with pytest.raises(ImageSetError, match=r"dog/5\.png cannot be decoded \(.*prepare\.on_corrupt=skip\.$"):
            prepare(config(root, folder))
        outcome = prepare(config(root, folder, "prepare.on_corrupt=skip"))
        assert sorted(itertools.chain(*outcome.result["skipped"].values())) == ["near_ood/fox/3.png", "train/dog/5.png"]
        assert json.loads((outcome.output / "stage.json").read_text())["result"] == outcome.result
        assert "pictures that do not decode were skipped: 2 (" in capsys.readouterr().err.replace("\n", " ")
        id_counts = [ImageSet(outcome.output / "id" / part).manifest.class_counts for part in ("train", "val", "test")]
        assert np.sum(id_counts, axis=0).tolist() == [20, 19]
        near = [outcome.result["num_images"][f"near_ood/{part}/fox"] for part in ("val", "test")]
        assert sum(near) == 19


def test_a_second_run_keeps_what_is_whole_and_mends_what_is_not(root, tmp_path):
    first = prepare(config(root, tmp_path))
    assert prepare(config(root, tmp_path)).reused
    before = manifests(first)
    (first.output / "id" / "val" / "manifest.json").unlink()
    (first.output / "id" / "val" / "part-00000-of-00001.parquet").unlink()
    kept = first.output / "id" / "train" / "part-00000-of-00001.parquet"
    written = kept.stat().st_mtime_ns
    again = prepare(config(root, tmp_path))
    assert not again.reused
    assert manifests(again) == before
    assert kept.stat().st_mtime_ns == written


def test_provenance_says_the_source_and_the_set(root, tmp_path):
    outcome = prepare(config(root, tmp_path))
    provenance = ImageSet(outcome.output / "far_ood" / "test" / "car").info.provenance
    assert provenance["source"] == "image_folder"
    assert provenance["set"] == "far_ood/test/car"
    assert provenance["root"] == str(root)


@dataclass(frozen=True, eq=False)
class DeadlyFiles(FileSet):
    """Kills the process that reads it, so many times."""

    deaths: Path = Path()
    num_deaths: int = 0

    def read(self, row):
        died = len(list(self.deaths.iterdir()))
        if died < self.num_deaths:
            (self.deaths / str(died)).touch()
            os._exit(1)
        return super().read(row)


def deadly_tasks(tmp_path, num_deaths):
    (tmp_path / "deaths").mkdir()
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    paths = [f"{number}.png" for number in range(3)]
    files = DeadlyFiles(tmp_path, paths, np.full(3, -1), 8, 1, deaths=tmp_path / "deaths", num_deaths=num_deaths)
    return shard_tasks(Folder(str(tmp_path / "set")), INFO, files, skips_corrupt=False)


def test_a_worker_that_dies_costs_nothing_but_time(tmp_path, monkeypatch, ray_cluster):
    monkeypatch.setattr(writing, "_MAX_IMAGES_PER_SHARD", 1)
    tasks = deadly_tasks(tmp_path, 2)
    written = {shard.entry.name: shard for shard in stage._write_on_cluster(tasks, load_config("digits"))}
    commit(tasks, [written[task.name] for task in tasks])
    assert len(list((tmp_path / "deaths").iterdir())) >= 2
    assert ImageSet(tmp_path / "set").read().images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_workers_that_always_die_end_the_run_with_the_shards_name(tmp_path, ray_cluster):
    tasks = deadly_tasks(tmp_path, 1000)
    with pytest.raises(
        ResourceError, match=r"part-00000-of-00001\.parquet could not be written \(.*; look for missing"
    ):
        list(stage._write_on_cluster(tasks, load_config("digits")))
