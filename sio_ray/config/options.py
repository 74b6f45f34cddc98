"""Options of what a config names (a training algorithm, a detector): fields of its own, checked before work."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from sio_ray.config.loading import translate
from sio_ray.config.section import Section
from sio_ray.errors import ConfigError, did_you_mean

Options = TypeVar("Options", bound=Section)


class NoOptions(Section):
    """Of what has no fields of its own."""


def read_options(kind: type[Options], values: dict[str, Any], *, owner: str, prefix: str) -> Options:
    """Check options and fill in defaults.

    Args:
        kind: the options' class.
        values: what the config gives.
        owner: whose options they are, for the message.
        prefix: of the fields' names, such as `train.algorithm_options.`.

    Raises:
        ConfigError: an unknown option, or a value that breaks a rule.
    """
    fields = list(kind.model_fields)
    for field, value in values.items():
        if field not in fields:
            rule = f"an option of {owner} ({', '.join(fields)})" if fields else f"left out, as {owner} has no options"
            remedy = did_you_mean(field, fields, "choose from these" if fields else "remove it")
            raise ConfigError(f"{prefix}{field}", rule, value, remedy)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise translate(error, kind, prefix) from None
