"""Stage `report`: one HTML page of an evaluation, or of several side by side, and its tables as files."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sio_ray.config import Config
from sio_ray.errors import ConfigError
from sio_ray.imageset.storage import Folder
from sio_ray.report.data import Evaluation, ReportData
from sio_ray.stages.layout import report_place
from sio_ray.stages.record import Outcome, run_once
from sio_ray.stages.report_inputs import Source, read_evaluation, source_of
from sio_ray.stages.report_inputs import gather as gather_from
from sio_ray.stages.report_searches import searches_of

REPORT_NAME, COMPARISON_NAME = "report.html", "comparison.html"


def report(config: Config) -> Outcome:
    """Write `report.html` into the run's folder.

    Raises:
        StageError: `evaluate` has not run for this config.
    """
    place = report_place(config, [search.page for search in searches_of(config)])
    outcome = run_once(
        "report", place.folder, place.identity, config, lambda folder: _work(config, folder), outputs=[REPORT_NAME]
    )
    # The newest report is also found at a path that does not change.
    newest = config.run_dir / REPORT_NAME
    page = (outcome.output / REPORT_NAME).read_bytes()
    if not newest.exists() or newest.read_bytes() != page:
        Folder(str(config.run_dir)).write_bytes(REPORT_NAME, page)
    return outcome.model_copy(update={"output": newest})


def gather(config: Config) -> ReportData:
    """Read everything that the page, or the table on the terminal, shows.

    Raises:
        StageError: `evaluate` has not run for this config.
    """
    return gather_from(source_of(config))


def write_page(sources: Sequence[Source], path: Path) -> None:
    """Write the page of one evaluation, or one that compares several.

    Args:
        sources: at least one.
        path: of the page.
    """
    from sio_ray.report.comparison_page import render_comparison
    from sio_ray.report.page import render_report

    one = len(sources) == 1
    page = render_report(gather_from(sources[0])) if one else render_comparison(evaluations(sources))
    _write(path, page)


def write_tables(sources: Sequence[Source], page: Path, formats: Collection[str]) -> list[Path]:
    """Write the tables beside a page, under its name.

    Args:
        sources: at least one.
        page: path of the page.
        formats: of `csv`, `json` and `tex`.

    Returns:
        The files.
    """
    from sio_ray.report.latex import to_latex
    from sio_ray.report.rows import to_csv, to_json

    writers = {"csv": to_csv, "json": to_json, "tex": to_latex}
    runs = evaluations(sources)
    paths = []
    for suffix in (suffix for suffix in writers if suffix in formats):
        paths.append(page.with_suffix(f".{suffix}"))
        _write(paths[-1], writers[suffix](runs))
    return paths


def evaluations(sources: Sequence[Source]) -> list[Evaluation]:
    """The figures of every source; runs of one name are told apart by their folders.

    Raises:
        ConfigError: a run twice.
    """
    schemes = (
        [source.name for source in sources],
        [f"{source.name} ({source.folder.name.rpartition('-')[2]})" for source in sources],
        [f"{source.name} ({os.path.relpath(source.folder)})" for source in sources],
    )
    names = next((scheme for scheme in schemes if len(set(scheme)) == len(scheme)), None)
    if names is None:
        twice = next(
            source.name for source, name in zip(sources, schemes[-1], strict=True) if schemes[-1].count(name) > 1
        )
        raise ConfigError("RUN", "given once", twice, "leave out what is there already")
    return [read_evaluation(source, name) for source, name in zip(sources, names, strict=True)]


def _work(config: Config, folder: Path) -> dict[str, Any]:
    write_page([source_of(config)], folder / REPORT_NAME)
    return {"num_bytes": (folder / REPORT_NAME).stat().st_size}


def _write(path: Path, text: str) -> None:
    Folder(str(path.absolute().parent)).write_bytes(path.name, text.encode())
