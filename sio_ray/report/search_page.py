"""Render the page of a search: what it found, whether fresh seeds confirm it, and every trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sio_ray.imageset.storage import Folder
from sio_ray.report import search_plots, search_tables
from sio_ray.report.comparison import ARMS
from sio_ray.report.page import render
from sio_ray.report.search_pareto import draw_pareto
from sio_ray.report.search_plane import draw_plane, draw_scatter
from sio_ray.report.search_result import Search, figure_text, heading, metric_name, spread_text, unit_of
from sio_ray.report.search_verdict import chance_of_confirmation, differences, search_verdict, seeds_text

#: Fields whose schedule is drawn; the table has all.
_MAX_SCHEDULES = 4
_WEIGHT, _RATIO = "train.real_weight", "train.synthetic_ratio"


def render_search(result: Mapping[str, Any], *, title: str, facts: Mapping[str, str]) -> str:
    """Draw the whole page of one search.

    Args:
        result: of a finished search, as JSON values: `objectives`, `fields`, `trials` (0 is the baseline), `best`,
            `confirmation`, `importance`, `pareto`, `constraint`, `failed`, `cost` and the rest; shares are in [0, 1].
        title: heading.
        facts: heading to text, for those who want to run it again: machine, versions, commands, config.

    Returns:
        HTML, as self-contained as `render_report`'s.
    """
    search = Search(result)
    confirming = search.confirming
    return render(
        "search.html.jinja",
        title=title,
        facts=facts,
        result=result,
        search=search,
        arms=ARMS,
        verdict=search_verdict(search),
        differences=differences(search),
        chance=chance_of_confirmation(len(confirming[1]["seeds"])) if confirming else None,
        best_yaml=search_tables.best_yaml(search) if search.best else None,
        trial_rows=search_tables.trial_rows(search),
        field_rows=search_tables.field_rows(search),
        failed_rows=search_tables.failed_rows(search),
        schedule_rows=search_tables.schedule_rows(search),
        cost_rows=search_tables.cost_rows(search),
        metric_name=metric_name,
        heading=heading,
        figure_text=figure_text,
        spread_text=spread_text,
        unit_of=unit_of,
        seeds_text=seeds_text,
        **_plots(search),
    )


def write_search_page(result: Mapping[str, Any], path: Path, *, title: str, facts: Mapping[str, str]) -> None:
    """Write the page of one search, whole or not at all.

    Args:
        result: as `render_search` takes it.
        path: of the page.
        title: heading.
        facts: as `render_search` takes them.
    """
    page = render_search(result, title=title, facts=facts)
    Folder(str(path.absolute().parent)).write_bytes(path.name, page.encode())


def plane_fields(search: Search) -> list[str]:
    """The one or two fields that the map of the objective shows: weight and ratio, else the most important."""
    if {_WEIGHT, _RATIO} <= set(search.fields):
        return [_WEIGHT, _RATIO]
    return search.fields[:2]


def _plots(search: Search) -> dict[str, object]:
    fields = plane_fields(search)
    plane = draw_plane(search, *fields) if len(fields) == 2 else None
    drawn = {
        "plane": plane.svg if plane else None,
        "scatter": draw_scatter(search, fields[0]) if len(fields) == 1 else None,
        "parallel": search_plots.draw_parallel(search) if len(search.fields) > 1 else None,
        "pareto": draw_pareto(search),
        "learning": search_plots.draw_learning(search),
    }
    schedules = []
    if search.best is not None and search.is_population:
        numeric = [field for field in search.fields if search.is_numeric(field)][:_MAX_SCHEDULES]
        schedules = [search_plots.draw_schedule(search, field, i) for i, field in enumerate(numeric)]
    return {
        **{name: Markup(svg) if svg else None for name, svg in drawn.items()},
        "schedules": [Markup(svg) for svg in schedules],
        "plane_kind": plane.kind if plane else None,
        "parallel_class": "wide" if len(search.fields) <= search_plots.MAX_NARROW else "broad",
    }
