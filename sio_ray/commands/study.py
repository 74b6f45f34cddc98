"""`sio-ray study`: run a table of methods and the ablations around it, and write the page of what they found."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sio_ray.config import Config
from sio_ray.progress import console

if TYPE_CHECKING:
    from sio_ray.study.plan import Study


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file: a config, and ablations around it.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.FIELD=VALUE]...", help="Fields to change in every run of the study."),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="MD", help="The page.")] = Path("RESULTS.md"),
    pictures: Annotated[Path, typer.Option(metavar="DIR", help="Folder of its pictures.")] = Path("docs/results"),
    only_write: Annotated[bool, typer.Option("--only-write", help="Run nothing; what is missing is named.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Run every method and ablation of a study that has not been run, and write its page, RESULTS.md."""
    from sio_ray.study.page import write_study
    from sio_ray.study.plan import config_of, read_study
    from sio_ray.study.results import results_of

    wanted = read_study(file)
    config = config_of(wanted, file, overrides or ())
    if not only_write:
        run_study(wanted, config)
    given = [arg for arg in overrides or () if not arg.startswith("output_dir=")]
    command = shlex.join(["sio-ray", "study", os.path.relpath(file), *given])
    written = write_study(results_of(wanted, config), output, pictures, command)
    console.print(f"results: {os.path.relpath(written[-1])}", markup=False, soft_wrap=True)


def run_study(wanted: Study, config: Config) -> None:
    """Run the stages of the table, then those of each point of an ablation; what is there already is kept."""
    from sio_ray.cli import run_stages
    from sio_ray.stages.layout import run_order
    from sio_ray.study.plan import config_at

    work = [("the table", config, run_order(config))]
    for ablation in wanted.ablations:
        for point in ablation.points:
            at = config_at(point, wanted, config)
            stages = tuple(stage for stage in run_order(at) if stage != "report")
            work.append((f"{ablation.title}: {point.label}", at, stages))
    for what, each, stages in work:
        console.print(f"\n[bold]{escape(what)}[/bold]", soft_wrap=True)
        run_stages(each, stages)
