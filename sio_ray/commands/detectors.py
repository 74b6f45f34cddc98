"""`sio-ray detectors`: every detector, where it is from, what it reads and what it costs."""

from __future__ import annotations

import inspect
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sio_ray.config.evaluate_section import PAPER_DETECTORS
from sio_ray.errors import ConfigError, did_you_mean
from sio_ray.progress import console

if TYPE_CHECKING:  # it takes seconds
    from sio_ray.ood.detectors import Detector


def detectors(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One detector, with its options.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """List the OOD detectors: name in the config, paper, what each reads, and what it costs."""
    rows = table_of_detectors()
    if name is not None:
        names = [row["name"] for row in rows]
        if name not in names:
            raise ConfigError("NAME", f"among {', '.join(names)}", name, did_you_mean(name, names))
        rows = [row for row in rows if row["name"] == name]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    elif name is not None:
        _print_one(rows[0])
    else:
        _print_all(rows)


def table_of_detectors() -> list[dict[str, Any]]:
    """One row per detector, JSON values."""
    from sio_ray.ood.detectors import DETECTORS  # takes seconds

    return [
        {
            "name": name,
            "title": detector.title,
            "paper": detector.paper,
            "reads": [*sorted(detector.needs), *_further(detector())],
            "cost": detector.cost,
            "options": detector().options.model_dump(mode="json"),
            "sweep": {option: list(values) for option, values in detector.sweep.items()},
            "in_sio_paper": name in PAPER_DETECTORS,
            "what": inspect.getdoc(detector),
        }
        for name, detector in DETECTORS.items()
    ]


def _further(detector: Detector) -> list[str]:
    """What its probes read."""
    read = {"feature_maps": False, "gradients": False}
    for probe in detector.probes():
        read["feature_maps"] |= probe.reads_maps
        read["gradients"] |= probe.differentiates
    return [name for name, is_read in read.items() if is_read]


def _print_all(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "paper", "reads", "cost"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        mark = "*" if row["in_sio_paper"] else ""
        reads = ", ".join(read.replace("_", " ") for read in row["reads"])
        table.add_row(row["name"] + mark, row["paper"], reads, row["cost"])
    console.print(table)
    console.print(
        "\nCosts: N training images, M scored ones, D features, C classes.\n"
        "* in the SIO paper's table, and a default; evaluate.detectors=[all] takes all that suit a network.\n"
        "One of them in full: sio-ray detectors knn",
        markup=False,
    )


def _print_one(row: dict[str, Any]) -> None:
    console.print(f"[bold]{row['name']}[/bold]  {row['title']}, {row['paper']}\n")
    for paragraph in row["what"].split("\n\n"):
        console.print(" ".join(paragraph.split()) + "\n", markup=False)
    console.print(f"reads: {', '.join(row['reads'])}\ncost: {row['cost']}", markup=False)
    for option, value in row["options"].items():
        swept = row["sweep"].get(option)
        tried = f"  (a sweep tries {', '.join(map(str, swept))})" if swept else ""
        console.print(f"evaluate.detector_options.{row['name']}.{option}={value}{tried}", markup=False)
