"""Stage `report`: gathers what the other stages wrote into one HTML page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from sio_ray.config import Config
from sio_ray.imageset import ImageSet
from sio_ray.imageset.storage import Folder
from sio_ray.report.data import ClassGrid, Curve, ReportData, StageTime
from sio_ray.stages.evaluate import METRICS_NAME, SCORES_NAME
from sio_ray.stages.layout import (
    evaluate_place,
    fit_generator_place,
    generate_place,
    prepare_place,
    report_place,
    run_order,
    synthetic_set_uri,
    train_runs,
)
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import Outcome, StageRecord, read_record, require, run_once

REPORT_NAME = "report.html"


def report(config: Config) -> Outcome:
    """Write `report.html` into the run's folder.

    Raises:
        StageError: `evaluate` has not run for this config.
    """
    place = report_place(config)
    outcome = run_once(
        "report", place.folder, place.identity, config, lambda folder: _work(config, folder), outputs=[REPORT_NAME]
    )
    # The newest report is also found at a path that does not change.
    newest = config.run_dir / REPORT_NAME
    page = (outcome.output / REPORT_NAME).read_bytes()
    if not newest.exists() or newest.read_bytes() != page:
        Folder(str(config.run_dir)).write_bytes(REPORT_NAME, page)
    return outcome.model_copy(update={"output": newest})


def _work(config: Config, folder: Path) -> dict[str, Any]:
    from sio_ray.report.page import render_report

    page = render_report(gather(config)).encode()
    Folder(str(folder)).write_bytes(REPORT_NAME, page)
    return {"num_bytes": len(page)}


def gather(config: Config) -> ReportData:
    """Read everything that the page, or the table on the terminal, shows.

    Raises:
        StageError: `evaluate` has not run for this config.
    """
    prepared = PreparedSets(config, "report")
    evaluated = evaluate_place(config).folder
    record = require(evaluated, "evaluate", "report")
    metrics = json.loads((evaluated / METRICS_NAME).read_text())
    runs = {run.name: (run, require(run.place.folder, "train", "report")) for run in train_runs(config)}
    fitted = "fit-generator" in run_order(config)
    generator = read_record(fit_generator_place(config).folder) if fitted else None
    curve = generator.result["curve"] if generator else []  # a closed form has none
    return ReportData(
        title=config.report.title or f"SIO on {config.name}",
        config=config,
        metrics=pd.DataFrame(metrics["metrics"]),
        id_accuracy=pd.DataFrame(metrics["id_accuracy"]),
        scores=pd.read_parquet(evaluated / SCORES_NAME),
        class_grids=_class_grids(config, prepared, metrics["quality"]),
        ood_grids=_ood_grids(config, prepared),
        quality={name: value for name, value in metrics["quality"].items() if isinstance(value, int | float)},
        classifier_curves=[Curve(name, run.arm, record.result["curve"]) for name, (run, record) in runs.items()],
        generator_curve=Curve("generator", "generator", curve) if curve else None,
        stage_times=_stage_times(config, [record for _, record in runs.values()]),
        provenance={
            "versions": record.versions,
            "machine": record.machine,
            "date": record.finished,
            "git_commit": record.git_commit,
        },
        commands=_commands(config, record.git_commit),
    )


def _class_grids(config: Config, prepared: PreparedSets, quality: dict[str, Any]) -> list[ClassGrid]:
    train_set = prepared.open("id/train")
    real, names = train_set.read(), train_set.info.class_names
    synthetic = None
    if "sio" in config.train.arms:
        # Labels go round in turn, so a prefix holds enough of every class.
        wanted = config.report.images_per_class * len(names)
        synthetic = ImageSet(synthetic_set_uri(config)).read(limit=wanted)
    agreement = quality.get("label_agreement_by_class", [None] * len(names))
    count = config.report.images_per_class
    return [
        ClassGrid(
            name=name,
            real=real.images[real.labels == label][:count],
            synthetic=None if synthetic is None else synthetic.images[synthetic.labels == label][:count],
            agreement=agreement[label],
        )
        for label, name in enumerate(names)
    ]


def _ood_grids(config: Config, prepared: PreparedSets) -> list[ClassGrid]:
    count = config.report.images_per_class
    return [
        ClassGrid(name=f"{name} ({group}-OOD)", real=ImageSet(path).read(limit=count).images)
        for (group, name), path in prepared.ood("test").items()
    ]


def _stage_times(config: Config, runs: list[StageRecord]) -> list[StageTime]:
    times = []
    places = {"prepare": prepare_place, "fit-generator": fit_generator_place, "generate": generate_place}
    for place in [place for stage, place in places.items() if stage in run_order(config)]:
        record = read_record(place(config).folder)
        if record is not None:
            times.append(StageTime(record.stage, record.wall_s, place(config).folder.name))
    for run, record in zip(train_runs(config), runs, strict=True):
        times.append(StageTime(f"train {run.name}", record.wall_s, run.place.folder.name))
    evaluated = evaluate_place(config).folder
    record = read_record(evaluated)
    if record is not None:
        times.append(StageTime("evaluate", record.wall_s, evaluated.name))
    return times


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
