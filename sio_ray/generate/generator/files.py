"""The files of a generator, in a folder or on the hub; nothing that it brings is ever run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers.pipelines
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HTTPError  # httpx's or requests', as it uses

from sio_ray.diffusion.gaussian import GaussianDenoiser
from sio_ray.errors import CheckpointError
from sio_ray.reading import parse_json_object, reason_of

INDEX_NAME = "model_index.json"

#: Its verdict would put black pictures in place of what it dislikes, and it knows photos only.
_NEVER_LOADED = "safety_checker"


def open_files(name: str) -> GeneratorFiles:
    """Open a folder, or a hub id at its newest commit or, as in `org/name@refs/pr/1`, at another.

    A hub id is resolved to a commit here, once, so that all workers load the same; from the cache if the hub cannot be
    reached.

    Raises:
        CheckpointError: there is neither.
    """
    return _local_files(Path(name).absolute()) if Path(name).is_dir() else _hub_files(name)


@dataclass(frozen=True)
class GeneratorFiles:
    """What is there, and how to get it.

    Attributes:
        location: absolute folder, or hub id.
        revision: commit of a hub id.
        names: relative paths; what is hidden is left out.
        content_id: SHA-256 over names and contents, or hub id and commit.
        fetch: relative path to a path here.
    """

    location: str
    revision: str | None
    names: frozenset[str]
    content_id: str
    fetch: Callable[[str], str | Path]

    def json(self, name: str) -> dict[str, Any]:
        """Read a JSON object."""
        return parse_json_object(Path(self.fetch(name)).read_bytes())


def _local_files(folder: Path) -> GeneratorFiles:
    if not (folder / INDEX_NAME).is_file():
        raise CheckpointError(
            f"{folder} is no diffusers folder (it has no {INDEX_NAME}); "
            "run `sio-ray fit-generator`, or give generate.generator a folder that it wrote."
        )
    digest, names = hashlib.sha256(), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            names.append(name)
            status = path.stat()
            content = _sha256(path, status.st_size, status.st_mtime_ns)
            digest.update(f"{content} {name}\n".encode())
    return GeneratorFiles(str(folder), None, frozenset(names), digest.hexdigest(), folder.joinpath)


@lru_cache
def _sha256(path: Path, _size_bytes: int, _modified_ns: int) -> str:
    """Of a file's content; gigabytes are read once per process, unless size or time say that they changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub_files(name: str) -> GeneratorFiles:
    repo, _, asked = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise CheckpointError(
            f"generate.generator {name} is no folder, and no hub id such as facebook/DiT-XL-2-256; "
            "run `sio-ray fit-generator`, or give one that is there."
        )
    try:
        # The cache keeps each commit in a folder of its name.
        snapshot = Path(hf_hub_download(repo, INDEX_NAME, revision=asked or None)).parent
        revision = snapshot.name
        try:
            names = HfApi().list_repo_files(repo, revision=revision)
        except (OSError, HTTPError):  # not reached: what the cache has
            names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    except (OSError, ValueError, HTTPError) as error:
        raise CheckpointError(
            f"generate.generator {name} is no folder here, and the hub and its cache have no such pipeline "
            f"({type(error).__name__}: {reason_of(error)}); look for a typing error, or download it first."
        ) from error

    def fetch(path: str) -> str:
        return str(hf_hub_download(repo, path, revision=revision))

    return GeneratorFiles(repo, revision, frozenset(names), f"{repo}@{revision}", fetch)


def refuse_code(files: GeneratorFiles, index: dict[str, Any]) -> None:
    """Nothing that a generator brings may be run: no Python, no pickles."""
    components = {
        name: value
        for name, value in index.items()
        if name != "class_names" and isinstance(value, list) and len(value) == 2 and value[0] is not None
    }
    known = {"diffusers", "transformers", GaussianDenoiser.__module__}
    code = [
        f"{name}: {library}.{kind}"
        for name, (library, kind) in components.items()
        if f"{name}/{library}.py" in files.names or not (library in known or hasattr(diffusers.pipelines, library))
    ]
    if code:
        raise CheckpointError(
            f"{files.location} names code of its own in {INDEX_NAME} ({', '.join(code)}), which is never run; "
            "use a pipeline whose classes are diffusers' own."
        )
    for name in sorted(components.keys() - {_NEVER_LOADED}):
        parts = sorted(path for path in files.names if path.startswith(f"{name}/"))
        if f"{name}/config.json" in parts and not any(path.endswith(".safetensors") for path in parts):
            raise CheckpointError(
                f"{files.location} has no safetensors for its {name} (only {', '.join(parts)}), and pickles are not "
                "read, as they can run code; save it with diffusers' `save_pretrained(..., safe_serialization=True)`, "
                "or name a revision of the hub that has them (org/name@refs/pr/1)."
            )
