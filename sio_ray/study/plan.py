"""Reads a study: a config whose table is wanted, and ablations, each of which changes one thing in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sio_ray.config import Config, load_config, with_overrides
from sio_ray.errors import ConfigError
from sio_ray.methods import PAPER_METHODS
from sio_ray.reading import parse_yaml, reason_of
from sio_ray.stages.layout import fitted_generator, train_runs
from sio_ray.stages.train import checkpoint_name
from sio_ray.stages.trainings import trainings

#: Stands, in a value, for the checkpoint of the config's first baseline: a real-trained judge of pictures.
BASELINE = "{baseline}"

#: Stands, in a value, for the generator that another point has fitted, of which the ablation and the label are named.
_GENERATOR = re.compile(r"\{generator of (?P<ablation>[a-z0-9_]+): (?P<label>.+)\}")


class Point(BaseModel):
    """One row of an ablation.

    Attributes:
        label: in its table.
        change: dotted fields of the config to their values. `{baseline}` is the checkpoint of the config's first
            baseline, `{generator of ABLATION: LABEL}` the generator of a point further up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    change: dict[str, Any] = Field(default_factory=dict)

    def generators(self) -> Iterator[tuple[str, str]]:
        """The points whose generators it draws from, as names of ablations and labels."""
        for value in self.change.values():
            if found := _generator_in(value):
                yield found


class Ablation(BaseModel):
    """One question, answered by a few runs.

    Attributes:
        name: of its figure's file.
        title: the question.
        column: heading of the labels.
        points: the rows; one without a change is the study's own config.
        note: what else a reader should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    column: str
    points: tuple[Point, ...] = Field(min_length=2)
    note: str = ""


class Study(BaseModel):
    """What a study's file holds.

    Attributes:
        config: preset or YAML file; the latter relative to the study's own.
        title: of the page.
        about: what the page says before its numbers.
        goal_points: by how much SIO should raise the mean near-OOD AUROC, in percent points.
        ablation_methods: the rows that an ablation is averaged over; all of the config if not given.
        ablations: in the order of the page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str
    title: str
    about: str = ""
    goal_points: float | None = None
    ablation_methods: tuple[str, ...] = ()
    ablations: tuple[Ablation, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        fitted: set[tuple[str, str]] = set()
        for ablation in self.ablations:
            for point in ablation.points:
                for wanted in point.generators():
                    if wanted not in fitted:
                        raise ConfigError(
                            f"ablations.{ablation.name}.points",
                            "drawing from generators of points further up, each of which fits one",
                            "{{generator of {}: {}}}".format(*wanted),
                            "name such a point, or move this one down",
                        )
                if not point.change.keys() & {"generate.generator", "train.synthetic_set"}:
                    fitted.add((ablation.name, point.label))
        return self

    def point(self, ablation: str, label: str) -> Point:
        """A point by the name of its ablation and its label.

        Raises:
            KeyError: there is none.
        """
        points = {(each.name, point.label): point for each in self.ablations for point in each.points}
        return points[ablation, label]


def read_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        ConfigError: it is missing, or not of the form of `Study`.
    """
    if not path.is_file():
        raise ConfigError("STUDY", "a file that exists", str(path), "check the path, or see studies/")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("STUDY", "a YAML file", str(path), f"check it ({reason_of(error)})") from error
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "STUDY"
        raise ConfigError(where, f"as the study's form asks ({first['msg']})", first["input"], f"mend {path}") from None


def config_of(study: Study, path: Path, overrides: Sequence[str]) -> Config:
    """The config whose table is wanted.

    Args:
        study: of the file.
        path: the file.
        overrides: `section.field=value`, for all runs.

    Raises:
        ConfigError: it is not valid.
    """
    beside = path.parent / study.config
    config = load_config(str(beside) if beside.is_file() else study.config, overrides)
    if not set(config.method_names) & set(PAPER_METHODS):
        rule = "of the paper's table in a study, as its result is their mean"
        raise ConfigError("methods", rule, list(config.methods), "give e.g. methods=[paper]")
    return config


def config_at(point: Point, study: Study, config: Config) -> Config:
    """The config of a point of an ablation.

    Args:
        point: with what it changes.
        study: that it is of.
        config: of the study.

    Raises:
        ConfigError: a change that is not valid.
    """
    if not point.change:
        return config
    values = {field: _filled(value, study, config) for field, value in point.change.items()}
    if study.ablation_methods:
        values["methods"] = list(study.ablation_methods)
    return with_overrides(config, values)


def _filled(value: Any, study: Study, config: Config) -> Any:
    if generator := _generator_in(value):
        return str(fitted_generator(config_at(study.point(*generator), study, config)))
    if value != BASELINE:
        return value
    first = trainings(config)[0].config
    run = next(run for run in train_runs(first) if run.arm == "baseline")
    return str(run.place.folder / checkpoint_name(first))


def _generator_in(value: Any) -> tuple[str, str] | None:
    found = _GENERATOR.fullmatch(value) if isinstance(value, str) else None
    return found and (found["ablation"], found["label"])
