"""What a result was made with: versions, machine, commit, and fingerprints of configs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("sio_ray", "ray", "torch", "torchvision", "diffusers", "transformers"),
    *("pyarrow", "numpy", "scikit-learn", "pillow"),
)


def fingerprint(payload: dict[str, Any]) -> str:
    """A short hash of JSON values, the same for the same values in any order of keys."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two sets of JSON values, each as `name: before -> after`."""
    after = json.loads(json.dumps(after))  # a list and a tuple are the same in a file
    return [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


@cache
def versions() -> dict[str, str]:
    """Package to version, of what decides results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> str:
    """This machine in words: its cores and GPUs, no names."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{cores} CPU cores ({platform.machine()}), {', '.join(gpus) if gpus else 'no GPU'}"


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, `+` appended if it has changes; None outside of one."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # Installed inside some other project's checkout (a venv), git would answer for that project.
        git("ls-files", "--error-unmatch", "provenance.py")
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
