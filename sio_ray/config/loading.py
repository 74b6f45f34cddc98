"""Reads a config: a preset or YAML file and dotted overrides in, errors that name field, rule, value and remedy out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from annotated_types import Ge, Le
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sio_ray.config.section import extra_of
from sio_ray.config.sections import Config
from sio_ray.errors import ConfigError, did_you_mean
from sio_ray.reading import ends_in_comment, parse_yaml
from sio_ray.redaction import redact_values

#: What makes YAML take a value as text.
_QUOTE = """quote it for YAML, as in key='"..."' on a command line"""


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    files = resources.files("sio_ray.presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_config(preset_or_yaml: str, overrides: Sequence[str] = ()) -> Config:
    """Load a preset or a YAML file and apply dotted overrides.

    Args:
        preset_or_yaml: name of a preset (`digits`) or path of a YAML file.
        overrides: `section.field=value`, the value in YAML syntax, such as `train.seeds=[0,1]`.

    Raises:
        ConfigError: no such preset or file, no text, broken YAML, an override that YAML reads a part of, an unknown or
            ill-typed key.
    """
    values = _read_yaml(preset_or_yaml)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                "override", "of the form section.field=value", override, "write e.g. train.real_weight=0.9"
            )
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(key, "valid YAML", text, "quote the value") from error
        if ends_in_comment(text):
            raise ConfigError(key, "without ' #', at which YAML begins a comment", text, f"leave it out, or {_QUOTE}")
        _set_dotted(values, key, value)
    return build_config(values)


def build_config(values: dict[str, Any]) -> Config:
    """Validate plain values.

    Raises:
        ConfigError: for the first field that breaks a rule.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise translate(error) from None


def with_overrides(config: Config, changes: dict[str, Any]) -> Config:
    """A copy of a config with some dotted fields changed, validated again.

    Raises:
        ConfigError: an unknown field or a value that breaks a rule.
    """
    values = config.model_dump(mode="json")
    for key, value in changes.items():
        _set_dotted(values, key, value)
    return build_config(values)


def to_yaml(config: Config) -> str:
    """The whole config as YAML that `load_config` takes; in place of a URI's secret it has ***."""
    return yaml.safe_dump(redact_values(config), sort_keys=False)


def dotted_keys() -> list[str]:
    """Every valid key, such as `train.real_weight`."""
    return list(_walk_keys(Config))


def _walk_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _read_yaml(preset_or_yaml: str) -> dict[str, Any]:
    path = Path(preset_or_yaml)
    if preset_or_yaml in preset_names():
        text = (resources.files("sio_ray.presets") / f"{preset_or_yaml}.yaml").read_text(encoding="utf-8")
    elif path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("config", "UTF-8 text", preset_or_yaml, "check that it is a YAML file") from error
    else:
        presets = ", ".join(preset_names())
        raise ConfigError(
            "config", f"a preset ({presets}) or a YAML file", preset_or_yaml, "check the name or the path"
        )
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError("config", f"valid YAML {error}", preset_or_yaml, "mend its syntax") from error
    if not isinstance(values, dict):
        raise ConfigError("config", "a mapping of sections", type(values).__name__, "see a preset for the form")
    return values


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    # Keys are checked here, before pydantic, so that a typing error in a section is told apart from one in a field.
    if not _is_key(key):
        raise ConfigError(key, "a field of the config", value, _did_you_mean(key, dotted_keys()))
    *sections, field = key.split(".")
    for depth, section in enumerate(sections):
        if depth and values.get(section) is None:
            values[section] = {}  # one that may be left out
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(section, "a mapping of fields", values, "give it fields, or leave it out")
    values[field] = value


def _is_key(key: str) -> bool:
    """Whether a dotted key can be set: a field, one of a section that may be left out, or an entry of a mapping."""
    path = key.split(".")
    field, depth = _field_at(path)
    return field is not None and (
        (depth == len(path) and not _is_section(field.annotation)) or get_origin(field.annotation) is dict
    )


def _did_you_mean(name: str, valid: Iterable[str]) -> str:
    return did_you_mean(name, valid, "see `sio-ray config digits` for the valid ones")


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _field_at(path: Sequence[int | str], model: type[BaseModel] = Config) -> tuple[FieldInfo | None, int]:
    """The field that a path leads to or into, and how many parts of the path lead to it; None if there is none."""
    field: FieldInfo | None = None
    for depth, part in enumerate(path, start=1):
        field = model.model_fields.get(str(part))
        sections = (
            [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)] if field else []
        )
        if not sections or depth == len(path):
            return field, depth
        model = sections[0]
    return field, len(path)


#: What pydantic calls an error, and the rule to say instead; `{...}` are filled from the error's context.
_RULES = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "letters, digits, '_', '.' and '-', beginning with a letter or a digit",
    "path_type": "a path",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "too_short": "a list of at least {min_length}",
    "literal_error": "{expected}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "missing": "given",
}


def translate(error: ValidationError, model: type[BaseModel] = Config, prefix: str = "") -> ConfigError:
    """Say the first of pydantic's errors in the project's words.

    Args:
        error: of a model's validation.
        model: which one.
        prefix: of its fields' names, such as `train.algorithm_options.`.
    """
    first = error.errors()[0]
    path = first["loc"]
    key = prefix + ".".join(str(part) for part in path)
    value = first["input"]
    if first["type"] in ("extra_forbidden", "invalid_key"):  # a key such as 1, or `on`, which YAML reads as true
        names = [prefix + name for name in _walk_keys(model)] if len(path) > 1 or prefix else [*model.model_fields]
        return ConfigError(key, "a field of the config", value, _did_you_mean(key, names))
    field, _ = _field_at(path, model)
    rule = _RULES.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    if first["type"] == "missing":
        return ConfigError(key, "given", None, f"add {key} to the config")
    is_text_wanted = first["type"] in ("string_type", "path_type") and value is not None
    remedy = _QUOTE if is_text_wanted else "correct the value"
    if field is not None:
        remedy = str(extra_of(field).get("remedy", remedy))
        lower = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
        upper = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
        if first["type"] in ("greater_than_equal", "less_than_equal") and None not in (lower, upper):
            rule = f"in [{lower}, {upper}]"
    return ConfigError(key, rule, value, remedy)
