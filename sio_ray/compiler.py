"""Whether `torch.compile` can work here: it needs a C++ compiler, and says so in fifty lines at the first step."""

from __future__ import annotations

import os
import shutil

from sio_ray.errors import ConfigError


def check_compiler(field: str) -> None:
    """Refuse to compile on a node without a compiler.

    Args:
        field: that asks for it, for the message.

    Raises:
        ConfigError: there is none.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        rule, remedy = "false where the workers have no C++ compiler", "install g++ there, or leave it out"
        raise ConfigError(field, rule, True, remedy)
