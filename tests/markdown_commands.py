"""What documents in Markdown hold that tests run: blocks of code, and the `sio-ray` commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def read_document(name: str) -> str:
    """A document by its path in the repository."""
    return (Path(__file__).parents[1] / name).read_text()


def code_blocks(document: str, language: str) -> list[str]:
    """The blocks of code in a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def sio_ray_commands(document: str) -> list[list[str]]:
    """The arguments of every `sio-ray` command in its bash blocks, without comments."""
    lines = "".join(code_blocks(document, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line.split(" #")[0])[1:] for line in lines if line.startswith("sio-ray ")]
