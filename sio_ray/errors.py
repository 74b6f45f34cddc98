"""Every exception that the package raises on purpose; each message ends with what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from sio_ray.redaction import redact


class SioRayError(Exception):
    """Base of all errors whose message is meant for the user; the CLI prints it on one line and exits with 2.

    Whatever a message quotes, the secrets of its URIs are not shown.
    """

    def __str__(self) -> str:
        return redact(super().__str__())


class ConfigError(SioRayError):
    """A field of the config breaks a rule.

    The arguments are positional and kept as they came, so the error survives pickling out of a Ray worker.
    """

    def __init__(self, field: str, rule: str, value: Any, remedy: str) -> None:
        super().__init__(field, rule, value, remedy)
        self.field = field
        self.rule = rule
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        return redact(f"{self.field} must be {self.rule}, got {self.value!r}; {self.remedy}.")


class ImageSetError(SioRayError):
    """An image set is missing, unfinished, corrupt, or does not fit the others."""


class BatchError(SioRayError):
    """A batch cannot have the composition that was asked for."""


class CheckpointError(SioRayError):
    """A checkpoint or a generator folder cannot be read, or is of another architecture."""


class ResourceError(SioRayError):
    """The cluster or the disk cannot give what the config asks for."""


class JobError(SioRayError):
    """A cluster's job API cannot be reached, does not let us in, or knows no such job."""


class GenerationError(SioRayError):
    """Shards of a synthetic image set could not be drawn."""


class TrainingError(SioRayError):
    """A training run ended without a usable model."""


class EvaluationError(SioRayError):
    """Scores or metrics cannot be computed from what is at hand."""


class StageError(SioRayError):
    """A stage needs the output of a stage that has not run, or of another config."""


def did_you_mean(name: object, valid: Iterable[str], otherwise: str = "choose from these") -> str:
    """The remedy for an unknown name: the valid one that is written most like it, if any is."""
    near = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f"did you mean {near[0]}" if near else otherwise
