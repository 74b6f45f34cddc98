"""Gathers what a report shows from the outputs of the other stages, as far as they are there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.config import Config, build_config, with_overrides
from sio_ray.errors import ConfigError, StageError
from sio_ray.methods import METHODS
from sio_ray.ood.detectors import DETECTORS
from sio_ray.ood.projection import from_arrow
from sio_ray.ood.protocol import METRICS
from sio_ray.reading import parse_json_object, parse_yaml, reason_of
from sio_ray.report.data import Curve, Evaluation, ReportData, StageTime
from sio_ray.stages.evaluation_results import METRICS_NAME, PROJECTION_NAME, SCORES_NAME
from sio_ray.stages.layout import (
    evaluate_place,
    fit_generator_place,
    generate_place,
    prepare_place,
    run_order,
    train_runs,
)
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import StageRecord, read_record, require
from sio_ray.stages.report_pictures import class_grids, mistakes, ood_grids
from sio_ray.stages.report_searches import searches_of
from sio_ray.stages.trainings import trainings

#: Of each row of `metrics.json`; older ones have no FPR at 95 % of ID.
_KEYS = {"arm", "seed", "detector", "group", "ood_set", *METRICS} - {"fpr_at_95_id_tpr"}


@dataclass(frozen=True)
class Source:
    """An evaluation to report on.

    Attributes:
        folder: what `evaluate` wrote.
        config: leads to the outputs of the other stages; None if there is none that this version reads.
        record: of `evaluate`; None if somebody else made the folder.
    """

    folder: Path
    config: Config | None
    record: StageRecord | None

    @property
    def name(self) -> str:
        """Of the run."""
        return self.config.name if self.config else self.folder.name

    def metrics(self) -> dict[str, Any]:
        """What `evaluate` measured."""
        path = self.folder / METRICS_NAME
        with _readable(path):
            measured = parse_json_object(path.read_bytes())
            rows = measured.get("metrics")
            if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= _KEYS for row in rows):
                raise ValueError(f"`metrics` must be a list of rows with {', '.join(sorted(_KEYS))}")
        return measured


def source_of(config: Config) -> Source:
    """The evaluation of a config.

    Raises:
        StageError: `evaluate` has not run for this config.
    """
    folder = evaluate_place(config).folder
    record = read_record(folder)
    if record is None:
        if "prepare" in run_order(config):  # the first stage that is missing is the one to run
            require(prepare_place(config).folder, "prepare", "report")
        record = require(folder, "evaluate", "report")
    return Source(folder, config, record)


def source_in(folder: Path, overrides: Sequence[str] = ()) -> Source:
    """The evaluation in a folder.

    Args:
        folder: what `evaluate` wrote, moved or not, or somebody else's `metrics.json` and `scores.parquet`.
        overrides: `report.field=value`.

    Raises:
        StageError: the folder does not hold both files.
        ConfigError: an override of another section, or any where there is no config.
    """
    for name in (METRICS_NAME, SCORES_NAME):
        if not (folder / name).is_file():
            raise StageError(f"{folder} must hold {name} of an evaluation, got none; give the folder of `evaluate`.")
    record = read_record(folder)
    config = None
    if record is not None:
        try:
            config = build_config(record.config)
        except ConfigError:  # of another version; the page says that it is missing
            pass
        else:
            if folder.absolute().parent.name == config.name:  # a run that was moved is whole where it is
                config = config.model_copy(update={"output_dir": folder.absolute().parent.parent})
    for override in overrides:
        key, _, text = override.partition("=")
        if config is None or not key.startswith("report."):
            rule = "of the section report where a folder is given" if config else "left out where there is no config"
            raise ConfigError("override", rule, override, "give a preset or YAML file to change other fields")
        config = with_overrides(config, {key: _value(key, text)})
    return Source(folder, config, record)


def _value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(key, f"valid YAML {error}", text, "quote the value") from error


def read_evaluation(source: Source, name: str | None = None) -> Evaluation:
    """Read the figures of an evaluation; what an older or foreign one lacks stays empty."""
    return Evaluation(name=name or source.name, **_figures(source))


def gather(source: Source) -> ReportData:
    """Read everything that the page of one evaluation shows."""
    config, measured = source.config, source.metrics()
    figures = _figures(source)
    detector = config.report.detector if config else _any_detector(measured["metrics"])
    scores = _scores(source.folder / SCORES_NAME, detector)
    data = ReportData(
        name=source.name,
        **figures,
        title=(config and config.report.title) or f"SIO on {source.name}",
        detector=detector,
        scores=scores,
        quality={key: value for key, value in measured.get("quality", {}).items() if isinstance(value, int | float)},
        **_projection(source.folder / PROJECTION_NAME),
    )
    if config is None:
        return data
    return ReportData(**{**vars(data), **_from_config(config, measured.get("quality", {}), scores)})


def _figures(source: Source) -> dict[str, Any]:
    measured, record = source.metrics(), source.record
    titles = {name: detector.title for name, detector in DETECTORS.items()}
    papers = {name: detector.paper for name, detector in DETECTORS.items()}
    if source.config and source.config.methods:
        titles |= {name: method.title for name, method in METHODS.items()}
        papers |= {name: method.paper for name, method in METHODS.items() if method.paper}
    provenance = {}
    if record is not None:
        provenance = {
            "versions": record.versions,
            "machine": record.machine,
            "date": record.finished,
            "git_commit": record.git_commit,
        }
    return {
        "metrics": pd.DataFrame(measured["metrics"]),
        "id_accuracy": _id_accuracy(measured.get("id_accuracy", [])),
        "full_spectrum": pd.DataFrame(measured.get("full_spectrum_rows", [])),
        "config": source.config,
        "titles": titles,
        "papers": papers,
        "settings": measured.get("settings", []),
        "sweeps": measured.get("sweeps", []),
        "costs": measured.get("costs", []),
        "extraction": measured.get("extraction", {}),
        "overlaps": measured.get("overlaps"),
        "failed": measured.get("failed", {}),
        "provenance": provenance,
        "commands": _commands(source.config, record.git_commit) if source.config and record else [],
    }


def _id_accuracy(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    of_methods = ["detector"] if any("detector" in row for row in rows) else []
    return pd.DataFrame(rows, columns=["arm", "seed", *of_methods, "accuracy"])


def _any_detector(metrics: Sequence[Mapping[str, Any]]) -> str:
    names = [str(row["detector"]) for row in metrics]
    return "energy" if "energy" in names else names[0]


def _scores(path: Path, detector: str) -> pd.DataFrame:
    """The rows of one detector; the file may hold tens of millions of others."""
    columns = ["arm", "seed", "group", "image_set", "image_id", "ood_score"]
    with _readable(path):
        table = pq.read_table(path, columns=columns, filters=[("detector", "==", detector)])
        if absent := [name for name in columns if name not in table.column_names]:
            raise ValueError(f"it has no column {', '.join(absent)}")
        return table.to_pandas(strings_to_categorical=True)


def _projection(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with _readable(path):
        points, shares = from_arrow(pq.read_table(path))
        return {"projection": points, "explained_variance": shares}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a broken file into one line."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"{path} cannot be read ({reason_of(error)}); give the folder of `evaluate`, or run it again."
        ) from error


def _from_config(config: Config, quality: Mapping[str, Any], scores: pd.DataFrame) -> dict[str, Any]:
    """What the other stages of the config left: pictures, curves, times."""
    order = run_order(config)
    # Of the first training: those of all methods would be too many for one plot.
    runs = train_runs(trainings(config)[0].config) if "train" in order else []
    records = {run.name: (run, record) for run in runs if (record := read_record(run.place.folder))}
    found: dict[str, Any] = {
        "classifier_curves": [Curve(name, run.arm, record.result["curve"]) for name, (run, record) in records.items()],
        "generator_curve": _generator_curve(config),
        "stage_times": _stage_times(config),
        "searches": searches_of(config),
    }
    if "prepare" in order and read_record(prepare_place(config).folder) is not None:
        prepared = PreparedSets(config, "report")
        found["class_grids"] = class_grids(config, prepared, quality)
        found["ood_grids"] = ood_grids(config, prepared)
        found["mistakes"] = mistakes(prepared, scores)
    return found


def _generator_curve(config: Config) -> Curve | None:
    record = read_record(fit_generator_place(config).folder) if "fit-generator" in run_order(config) else None
    curve = record.result["curve"] if record else []  # a closed form has none
    return Curve("generator", "generator", curve) if curve else None


def _stage_times(config: Config) -> list[StageTime]:
    order = run_order(config)
    places = {"prepare": prepare_place, "fit-generator": fit_generator_place, "generate": generate_place}
    folders = [(stage, place(config).folder) for stage, place in places.items() if stage in order]
    if "train" in order:
        folders += [(f"train {run.name}", run.place.folder) for run in train_runs(config)]
    if config.methods:
        folders += [(f"evaluate {each.name}", evaluate_place(each.config).folder) for each in trainings(config)]
    folders.append(("evaluate", evaluate_place(config).folder))
    return [StageTime(name, record.wall_s, folder.name) for name, folder in folders if (record := read_record(folder))]


def _commands(config: Config, git_commit: str | None) -> list[str]:
    """From a clone of the code to this report; the config is on the page too."""
    checkout = [f"git checkout {git_commit.rstrip('+')}"] if git_commit else []
    changed = ["# the code had changes that were not committed"] if git_commit and git_commit.endswith("+") else []
    return [
        *checkout,
        *changed,
        "make install",
        f".venv/bin/sio-ray run {shlex.quote(config.name)}.yaml  # the full config below, saved under this name",
    ]
