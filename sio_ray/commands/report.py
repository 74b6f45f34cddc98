"""`sio-ray report`: the page of one or more evaluations, and their tables as CSV, JSON and LaTeX."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from sio_ray.config import load_config
from sio_ray.errors import ConfigError
from sio_ray.progress import console

_OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z0-9_]+)*=.*", re.DOTALL)


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [SECTION.FIELD=VALUE]...",
            help="Presets, YAML files, or folders of `evaluate`; several are compared on one page.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="HTML", help="The page; in the run's folder, or ./comparison.html, if not given."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write all figures beside the page, as CSV.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write them as JSON, and print what was written on standard output.")
    ] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Write the tables as LaTeX with booktabs.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Write the HTML report of what has been evaluated: of one run, or of several side by side."""
    names = [text for text in runs if not _OVERRIDE.fullmatch(text)]
    overrides = [text for text in runs if _OVERRIDE.fullmatch(text)]
    if not names:
        raise ConfigError("RUN", "given", None, "name a preset, a YAML file or the folder of an evaluation")
    if output is not None and output.suffix != ".html":
        raise ConfigError("--output", "a file that ends in .html", str(output), "name the page, as in report.html")
    configs = {name: load_config(name, overrides) for name in names if not Path(name).is_dir()}

    from sio_ray.stages import report as stage  # takes seconds
    from sio_ray.stages.preflight import check_settings
    from sio_ray.stages.report_inputs import source_in, source_of

    for config in configs.values():
        check_settings(config, ["report"])
    sources = [source_of(configs[name]) if name in configs else source_in(Path(name), overrides) for name in names]
    if len(names) == 1 and configs and output is None:
        page = stage.report(configs[names[0]]).output
    else:
        default = sources[0].folder / stage.REPORT_NAME if len(sources) == 1 else Path(stage.COMPARISON_NAME)
        page = output or default
        stage.write_page(sources, page)
    formats = [suffix for suffix, wanted in {"csv": as_csv, "json": as_json, "tex": as_latex}.items() if wanted]
    tables = stage.write_tables(sources, page, formats)
    for path in tables:
        console.print(f"tables: {os.path.relpath(path)}", markup=False, soft_wrap=True)
    console.print(f"report: {os.path.relpath(page)}  (open it in a browser)", markup=False, soft_wrap=True)
    if as_json:
        written = {"report": str(page.absolute()), "tables": [str(path.absolute()) for path in tables]}
        sys.stdout.write(json.dumps(written, indent=1) + "\n")
