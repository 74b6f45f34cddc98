"""What travels with a job: this package's source, the whole config as one file, and the space of a search."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import sio_ray
from sio_ray.config import Config, to_yaml, with_overrides
from sio_ray.errors import ConfigError
from sio_ray.jobs.travel import SPACE_FIELD

#: Where a search space goes.
_SPACES = "tune_spaces"


@dataclass(frozen=True)
class Parcel:
    """A folder that a job runs in.

    Attributes:
        folder: it.
        entrypoint: the shell command that runs the stage there.
        metadata: of the job; `config_sha256` is of all that the user decides.
    """

    folder: Path
    entrypoint: str
    metadata: dict[str, str]


def pack(what: str, config: Config, folder: Path) -> Parcel:
    """Fill a new folder with all that a stage needs beside what the nodes have.

    The package goes as it is imported here, installed or not, so a job runs the code that checked its config, whichever
    version the image of the nodes has.

    Args:
        what: a stage, or `run`.
        config: whole, and checked by `check_travels`.
        folder: where to; it is made.

    Raises:
        ConfigError: the space of a search cannot be read.
    """
    folder.mkdir()
    changes, decisive = {"cluster.address": "auto"}, b""
    if what == "tune":
        target = folder / _SPACES / config.tune.space.name
        decisive = _copy_space(config.tune.space, target)
        changes[SPACE_FIELD] = target.relative_to(folder).as_posix()
    text = to_yaml(with_overrides(config, changes))
    name = f"{config.name}.yaml"
    (folder / name).write_text(text, encoding="utf-8")
    source = Path(sio_ray.__file__).parent
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    digest = hashlib.sha256(b"\0".join((what.encode(), text.encode(), decisive))).hexdigest()
    return Parcel(
        folder,
        shlex.join(["python", "-m", "sio_ray.cli", what, name]),
        {"sio_ray": sio_ray.__version__, "stage": what, "config": config.name, "config_sha256": digest},
    )


def _copy_space(space: Path, target: Path) -> bytes:
    from sio_ray.search.space import read_space

    read_space(space)
    target.parent.mkdir()
    shutil.copyfile(space, target)
    return target.read_bytes()


def pip_requirements() -> list[str]:
    """What the package needs, for Ray to install on the nodes; but for Ray, as it must be the cluster's own.

    Raises:
        ConfigError: the package is not installed here, so nobody knows.
    """
    try:
        needed = _requirements()
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "--pip", "left out where sio_ray is not installed", True, "pip install it here, or give nodes an image"
        ) from error
    return [str(each) for each in needed if each.name != "ray" and (each.marker is None or each.marker.evaluate())]


def minimum_ray() -> str | None:
    """The oldest Ray that the package runs on; None where it is not installed, so nobody knows."""
    try:
        needed = _requirements()
    except metadata.PackageNotFoundError:
        return None
    return next((bound.version for each in needed if each.name == "ray" for bound in each.specifier), None)


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires("sio_ray") or ()]
