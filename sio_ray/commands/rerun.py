"""The command that a config came from: a preset and what differs from it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from sio_ray.config import Config, load_config, preset_names
from sio_ray.redaction import redact_values


def command_for(what: str, config: Config) -> str:
    """The command that goes on with a run.

    Args:
        what: a stage, or `run`.
        config: of the run; its `output_dir` is where the run lies now.

    Returns:
        A line for a shell. Where no preset has the config's name it names a file, which the caller has to say more of.
    """
    if config.name not in preset_names():
        return shlex.join(["sio-ray", what, f"{config.name}.yaml", *_overrides(config, config, only=("output_dir",))])
    return shlex.join(["sio-ray", what, config.name, *_overrides(config, load_config(config.name))])


def is_preset(config: Config) -> bool:
    """Whether `command_for` is a whole command."""
    return config.name in preset_names()


def _overrides(config: Config, base: Config, only: tuple[str, ...] = ()) -> list[str]:
    values, defaults = dict(_fields(config)), dict(_fields(base))
    changed = {key: value for key, value in values.items() if value != defaults.get(key) and key not in _PLACES}
    if _is_elsewhere(config.output_dir):
        changed["output_dir"] = str(config.output_dir)
    return [f"{key}={_inline(value)}" for key, value in changed.items() if not only or key in only]


#: Where a run lies is told by the folder and not by its record.
_PLACES = ("output_dir",)


def _is_elsewhere(output_dir: Path) -> bool:
    default = Config.model_fields["output_dir"].default
    return output_dir.absolute() != Path(default).absolute()


def _fields(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, redact_values(value)


def _inline(value: Any) -> str:
    """YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n...\n").rstrip("\n")
