"""What every section of the config is made of: strict fields, and which of them decide results."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticKnownError


def resource(default: Any, **rules: Any) -> Any:
    """A field that says where work runs, never what comes out; it is left out of every fingerprint."""
    return Field(default, json_schema_extra={"resource": True}, **rules)


def share(default: Any, **extra: Any) -> Any:
    """A share in [0, 1]."""
    return Field(default, ge=0, le=1, json_schema_extra={"remedy": "give a share, not a percentage", **extra})


def place(*default: Any, **rules: Any) -> Any:
    """A field of texts that are paths or URIs, or may be; one of type `Path` need not say so."""
    return Field(*default, json_schema_extra={"place": True}, **rules)


def is_place(field: FieldInfo, value: Any) -> bool:
    """Whether the value of a field is, or may be, a path or URI, or several."""
    return isinstance(value, Path) or bool(extra_of(field).get("place"))


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """What a field says of itself beyond its bounds: `resource`, `place`, `remedy`."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


class Section(BaseModel):
    """Base of all sections: frozen, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads `yes` and `on` as true, and pydantic would take that for 1.
        if isinstance(value, bool):
            annotation = cls.model_fields[str(info.field_name)].annotation
            kinds = {annotation, *get_args(annotation)}
            if kinds & {int, float}:
                raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value

    @field_validator("*")
    @classmethod
    def _at_home(cls, value: Any, info: ValidationInfo) -> Any:
        # A shell leaves `~` as it is behind the `=` of an override.
        return _expanded(value) if is_place(cls.model_fields[str(info.field_name)], value) else value

    def identity(self) -> dict[str, Any]:
        """The fields that decide what comes out, as JSON values; what a fingerprint is made of."""
        return self.model_dump(
            mode="json",
            exclude={name for name, field in type(self).model_fields.items() if extra_of(field).get("resource")},
        )


def _expanded(value: Any) -> Any:
    """A path, a URI, or a collection of these, with `~` for the home folder."""
    if isinstance(value, dict):
        return {name: _expanded(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_expanded(each) for each in value)
    if value is None or not str(value).startswith("~"):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError as error:
        raise PydanticCustomError("no_home", "below the home of a user that exists") from error
