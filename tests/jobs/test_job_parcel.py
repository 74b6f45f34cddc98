"""What travels is enough to run the stage, says what the user said, and is the same each time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sio_ray
from sio_ray.config import Config, load_config
from sio_ray.errors import ConfigError
from sio_ray.jobs.parcel import minimum_ray, pack, pip_requirements

ROOT = Path(__file__).parents[2]


def load(*overrides: str) -> Config:
    return load_config("digits", ["output_dir=/shared/runs", *overrides])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_whole_config_travels_as_one_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\ntrain: {num_steps: 7}\n")
    parcel = pack("run", load_config(str(mine), ["output_dir=/shared/runs", "train.seeds=[4]"]), tmp_path / "parcel")
    assert parcel.entrypoint == "python -m sio_ray.cli run mine.yaml"
    there = load_config(str(tmp_path / "parcel" / "mine.yaml"))
    assert there == load_config(str(mine), ["output_dir=/shared/runs", "train.seeds=[4]", "cluster.address=auto"])
    assert (there.train.num_steps, there.train.seeds) == (7, (4,))


def test_it_brings_the_package_that_its_entrypoint_runs(tmp_path: Path) -> None:
    parcel = pack("prepare", load("cluster.address=elsewhere:1"), tmp_path / "parcel")
    program, *_, stage, name = shlex.split(parcel.entrypoint)
    assert (program, stage) == ("python", "prepare")
    code = f"import sio_ray.cli as cli; print(cli.__file__); cli.main(['config', {name!r}])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=parcel.folder, env=environment, capture_output=True, text=True, check=True
    )
    where, _, config = done.stdout.partition("\n")
    assert where == str(parcel.folder / "sio_ray" / "cli.py")
    assert config == (parcel.folder / name).read_text()


def test_it_is_the_package_and_the_config_and_no_more(tmp_path: Path) -> None:
    source = Path(sio_ray.__file__).parent
    of_package = {f"sio_ray/{name}": data for name, data in files(source).items() if "__pycache__" not in name}
    found = files(pack("generate", load(), tmp_path / "parcel").folder)
    assert set(found) - set(of_package) == {"digits.yaml"}
    assert of_package.items() <= found.items()


def test_the_space_of_a_search_travels_and_decides(tmp_path: Path) -> None:
    space = tmp_path / "mine.py"
    space.write_text('SPACE = {"train.real_weight": ("uniform", 0.5, 0.9)}\n')
    parcel = pack("tune", load(f"tune.space={space}"), tmp_path / "one")
    there = load_config(str(parcel.folder / "digits.yaml"))
    assert (parcel.folder / there.tune.space).read_text() == space.read_text()
    assert not there.tune.space.is_absolute()
    space.write_text('SPACE = {"train.real_weight": ("uniform", 0.5, 0.8)}\n')
    other = pack("tune", load(f"tune.space={space}"), tmp_path / "two")
    assert other.metadata["config_sha256"] != parcel.metadata["config_sha256"]
    assert pack("train", load(f"tune.space={tmp_path}/none.py"), tmp_path / "three").folder.is_dir()
    with pytest.raises(ConfigError, match=r"^tune\.space must be a file that exists"):
        pack("tune", load(f"tune.space={tmp_path}/none.py"), tmp_path / "four")


def test_metadata_name_the_job_and_tell_two_apart(tmp_path: Path) -> None:
    def about(what: str, *overrides: str) -> dict[str, str]:
        return pack(what, load(*overrides), tmp_path / f"{len(list(tmp_path.iterdir()))}").metadata

    first = about("train")
    assert first == {
        "sio_ray": sio_ray.__version__,
        "stage": "train",
        "config": "digits",
        "config_sha256": about("train", "train.real_weight=0.8", "cluster.address=http://x")["config_sha256"],
    }
    assert len({each["config_sha256"] for each in (first, about("evaluate"), about("train", "train.seeds=[1]"))}) == 3


def test_requirements_are_the_packages_own_but_for_ray() -> None:
    needed = {Requirement(text).name: Requirement(text) for text in metadata.requires("sio_ray") or ()}
    names = {Requirement(text).name for text in pip_requirements()}
    assert "torch" in names
    assert names == {name for name, each in needed.items() if name != "ray" and each.marker is None}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray = next(Requirement(text) for text in project["dependencies"] if text.startswith("ray["))
    assert f">={minimum_ray()}" == str(ray.specifier)


def test_requirements_of_what_is_not_installed_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nowhere)
    assert minimum_ray() is None
    with pytest.raises(ConfigError) as error:
        pip_requirements()
    assert str(error.value) == (
        "--pip must be left out where sio_ray is not installed, got True; pip install it here, or give nodes an image."
    )
