"""Render the report: one self-contained HTML page that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from importlib import resources

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sio_ray.config import to_yaml
from sio_ray.report import pictures, plots, tables
from sio_ray.report.data import ReportData
from sio_ray.report.verdict import verdict


def render_report(data: ReportData) -> str:
    """Draw the whole page.

    Args:
        data: what to show; with one arm, or without a generator curve, the page says what is missing.

    Returns:
        HTML. The same data gives the same bytes. Scripts and styles are inline, pictures are data URIs, and the page's
        content security policy forbids requests, so it reads the same offline.

    Raises:
        EvaluationError: `data.metrics` is empty or its runs do not fit together.
    """
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            data=data,
            css=Markup(resources.files("sio_ray.report").joinpath("style.css").read_text(encoding="utf-8")),
            config_yaml=to_yaml(data.config),
            seeds=_seeds(data),
            total_s=sum(time.wall_s for time in data.stage_times),
            longest_s=max((time.wall_s for time in data.stage_times), default=0.0),
            **_tables(data),
            **_pictures(data),
            **_plots(data),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sio_ray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": tables.percent,
        "points": tables.points,
        "count": _count,
        "duration": _duration,
        "moment": _moment,
        "csp_hash": _csp_hash,
    }
    return environment


def _tables(data: ReportData) -> dict[str, object]:
    return {
        "arms": tables.arms_of(data),
        "arm_names": tables.ARM_NAMES,
        "group_names": tables.GROUP_NAMES,
        "verdict": verdict(data),
        "headline": tables.headline(data),
        "false_alarms": tables.false_alarms(data),
        "seed_count": tables.seed_count(data),
        "metric_tables": [tables.metric_table(data, metric) for metric in tables.METRICS],
        "id_accuracy": tables.id_accuracy(data) if len(data.id_accuracy) else None,
        "set_metrics": (tables.AUROC, tables.FPR),
        "ood_set_rows": tables.ood_set_rows(data),
        "detector_set_rows": tables.detector_set_rows(data),
    }


def _pictures(data: ReportData) -> dict[str, object]:
    shown = pictures.choose_classes(data.class_grids)
    return {
        "class_rows": [(grid, pictures.make_sprite(grid.real), pictures.make_sprite(grid.synthetic)) for grid in shown],
        "ood_rows": [(grid, pictures.make_sprite(grid.real)) for grid in data.ood_grids],
    }


def _plots(data: ReportData) -> dict[str, object]:
    arms = tables.arms_of(data)
    groups = tables.groups_of(data.metrics)
    auroc = tables.metric_table(data, tables.AUROC)
    scores: pd.DataFrame = data.scores[data.scores["detector"] == data.config.report.detector]
    first_seeds = {arm: int(scores.loc[scores["arm"] == arm, "seed"].min()) for arm in arms if _has(scores, arm)}
    classifier = data.classifier_curves
    generator = [data.generator_curve] if data.generator_curve else []
    figures: dict[str, list[str] | list[str | None]] = {
        "comparison_plots": [plots.draw_comparison(auroc, group) for group in groups],
        "roc_plots": [plots.draw_roc(scores, group) for group in groups] if first_seeds else [],
        "histogram_plots": [plots.draw_histogram(scores, arm, seed) for arm, seed in first_seeds.items()],
        "classifier_plots": [
            plots.draw_curves(classifier, "loss", "training loss"),
            plots.draw_curves(classifier, "val_accuracy", "validation accuracy, %", scale=100),
        ],
        "generator_plots": [plots.draw_curves(generator, "loss", "generator loss")],
    }
    safe = {name: [Markup(svg) for svg in drawn if svg is not None] for name, drawn in figures.items()}
    return {**safe, "first_seeds": first_seeds}


def _has(scores: pd.DataFrame, arm: str) -> bool:
    return bool((scores["arm"] == arm).any())


def _seeds(data: ReportData) -> list[tuple[str, str]]:
    """What each random stage was seeded with."""
    config = data.config
    classifiers = ", ".join(map(str, sorted({int(seed) for seed in data.metrics["seed"]})))
    seeds = [("Splits and drawn OOD sets", str(config.prepare.seed))]
    if config.train.synthetic_set is None and "sio" in tables.arms_of(data):
        if config.generate.generator is None:
            seeds.append(("Generator", str(config.fit_generator.seed)))
        seeds.append(("Synthetic images (base seed)", str(config.generate.base_seed)))
    return [*seeds, ("Classifiers", classifiers)]


def _count(number: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _moment(text: object) -> str:
    """A date and time to the minute; any other text as it is."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return str(text) if moment.tzinfo is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _csp_hash(text: str) -> str:
    """What lets this inline script run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode("utf-8")).digest()).decode("ascii")
