"""Render the report: one self-contained HTML page that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sio_ray.config import to_yaml
from sio_ray.report import comparison, numbers, pictures, plots, tables
from sio_ray.report.data import ReportData
from sio_ray.report.verdict import verdict


def render_report(data: ReportData) -> str:
    """Draw the whole page of one evaluation.

    Args:
        data: what to show; where a part is empty, the page says what is missing.

    Returns:
        HTML. The same data gives the same bytes. Scripts and styles are inline, pictures are data URIs, and the page's
        content security policy forbids requests, so it reads the same offline.

    Raises:
        EvaluationError: `data.metrics` is empty or its runs do not fit together.
    """
    return render(
        "page.html.jinja",
        data=data,
        config_yaml=data.config and to_yaml(data.config),
        seeds=_seeds(data),
        total_s=sum(time.wall_s for time in data.stage_times),
        longest_s=max((time.wall_s for time in data.stage_times), default=0.0),
        **_tables(data),
        **_pictures(data),
        **_plots(data),
    )


class Numbering:
    """Counts the tables and figures of a page."""

    def __init__(self) -> None:
        self._counts = {"Table": 0, "Figure": 0}

    def __call__(self, kind: str, view: int = 0) -> str:
        """The next one of a kind, such as `Table 3`.

        Args:
            kind: `Table` or `Figure`.
            view: of several that show in turn, from 1: `Table 3a`, `Table 3b`, so that none seems to be missing.
        """
        self._counts[kind] += view < 2
        return f"{kind} {self._counts[kind]}{chr(ord('a') + view - 1) if view else ''}"


def render(template: str, **values: object) -> str:
    """Fill in a template of this folder; every value is escaped but for markup that is marked as such."""
    environment = Environment(
        loader=PackageLoader("sio_ray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": numbers.percent,
        "points": numbers.points,
        "count": numbers.thousands,
        "plural": numbers.plural,
        "duration": numbers.duration,
        "moment": numbers.moment,
        "breakable": _breakable,
        "csp_hash": _csp_hash,
    }
    return environment.get_template(template).render(
        css=Markup(resources.files("sio_ray.report").joinpath("style.css").read_text(encoding="utf-8")),
        number=Numbering(),
        arm_names=comparison.ARM_NAMES,
        group_names=comparison.GROUP_NAMES,
        **values,
    )


def _tables(data: ReportData) -> dict[str, object]:
    shared = tables.shared_detectors(data)
    return {
        "arms": tables.arms_of(data),
        "verdict": verdict(data),
        "headline": tables.headline(data),
        "false_alarms": comparison.false_alarms(tables.seed_counts(data).values()),
        "seed_count": tables.seed_count(data),
        "num_seeds": max(tables.seed_counts(data).values()),
        "num_detectors": len(tables.detectors_of(data)),
        "unshared": [data.title_of(name) for name in tables.detectors_of(data) if name not in shared],
        "metric_tables": [tables.metric_table(data, metric) for metric in tables.metrics_of(data)],
        "full_spectrum_table": tables.metric_table(tables.full_spectrum(data), comparison.AUROC)
        if len(data.full_spectrum)
        else None,
        "id_accuracy": tables.id_accuracy(data) if len(data.id_accuracy) else None,
        "set_metrics": (comparison.AUROC, comparison.FPR),
        "ood_set_rows": tables.ood_set_rows(data),
        "detector_set_rows": tables.detector_set_rows(data),
        "heat_map": tables.heat_map(data),
        "setting_rows": tables.setting_rows(data),
        "cost_columns": tables.COST_COLUMNS,
        "cost_rows": tables.cost_rows(data),
    }


def _pictures(data: ReportData) -> dict[str, object]:
    labels = pictures.choose_classes([grid.agreement for grid in data.class_grids])
    shown = [data.class_grids[label] for label in labels]
    return {
        "class_rows": [(grid, pictures.make_sprite(grid.real), pictures.make_sprite(grid.synthetic)) for grid in shown],
        "ood_rows": [(grid, pictures.make_sprite(grid.real)) for grid in data.ood_grids],
        "mistakes": [
            (worst, [(image, pictures.make_sprite(image.picture[None])) for image in worst.images])
            for worst in data.mistakes
        ],
    }


def _plots(data: ReportData) -> dict[str, object]:
    arms = tables.arms_of(data)
    groups = tables.groups_of(data.metrics)
    auroc = tables.metric_table(data, comparison.AUROC)
    first_seeds = _first_seeds(data.scores, arms)
    projected = {} if data.projection is None else _first_seeds(data.projection, arms)
    classifier = data.classifier_curves
    generator = [data.generator_curve] if data.generator_curve else []
    figures: dict[str, list[str] | list[str | None]] = {
        "comparison_plots": [plots.draw_comparison(auroc, group) for group in groups],
        "roc_plots": [plots.draw_roc(data.scores, group) for group in groups] if first_seeds else [],
        "histogram_plots": [plots.draw_histogram(data.scores, arm, seed) for arm, seed in first_seeds.items()],
        "projection_plots": [_projection_plot(data, arm, seed) for arm, seed in projected.items()],
        "classifier_plots": [
            plots.draw_curves(classifier, "loss", "training loss"),
            plots.draw_curves(classifier, "val_accuracy", "validation accuracy, %", scale=100),
        ],
        "generator_plots": [plots.draw_curves(generator, "loss", "generator loss")],
    }
    safe = {name: [Markup(svg) for svg in drawn if svg is not None] for name, drawn in figures.items()}
    return {**safe, "first_seeds": first_seeds, "projected_seeds": projected}


def _projection_plot(data: ReportData, arm: str, seed: int) -> str:
    assert data.projection is not None, "there are seeds of it"
    points = data.projection[(data.projection["arm"] == arm) & (data.projection["seed"] == seed)]
    return plots.draw_projection(points, arm, data.explained_variance.get((arm, seed), ()))


def _first_seeds(rows: pd.DataFrame, arms: tuple[str, ...]) -> dict[str, int]:
    """The lowest seed of each arm that has rows."""
    return {arm: int(seed) for arm in arms if not pd.isna(seed := rows.loc[rows["arm"] == arm, "seed"].min())}


def _seeds(data: ReportData) -> list[tuple[str, str]]:
    """What each random stage was seeded with."""
    classifiers = ("Classifiers", ", ".join(map(str, sorted({int(seed) for seed in data.metrics["seed"]}))))
    config = data.config
    if config is None or not data.trained_here:
        return [classifiers]
    seeds = [("Splits and drawn OOD sets", str(config.prepare.seed))]
    if config.train.synthetic_set is None and "sio" in tables.arms_of(data):
        if config.generate.generator is None:
            seeds.append(("Generator", str(config.fit_generator.seed)))
        seeds.append(("Synthetic images (base seed)", str(config.generate.base_seed)))
    return [*seeds, classifiers]


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after an underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _csp_hash(text: str) -> str:
    """What lets this inline script run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode("utf-8")).digest()).decode("ascii")
