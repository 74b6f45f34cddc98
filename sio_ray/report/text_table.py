"""Print the numbers of the report to the terminal: both arms and their difference per detector."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sio_ray.report.data import ReportData
from sio_ray.report.tables import (
    ARM_NAMES,
    AUROC,
    GROUP_NAMES,
    Comparison,
    arms_of,
    estimate_text,
    false_alarms,
    id_accuracy,
    metric_table,
    points,
    seed_count,
)
from sio_ray.report.verdict import verdict


def print_table(data: ReportData, console: Console) -> None:
    """Print the verdict, AUROC per detector and group, and ID accuracy; numbers are those of the page.

    Raises:
        EvaluationError: `data.metrics` is empty or its runs do not fit together.
    """
    arms = arms_of(data)
    auroc = metric_table(data, AUROC)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=False)
    table.add_column("AUROC, %")
    for group in auroc.groups:
        for heading in [ARM_NAMES[arm] for arm in arms] + ["diff"] * (len(arms) > 1):
            table.add_column(f"{GROUP_NAMES[group]}\n{heading}", justify="right", no_wrap=True)
    for row in auroc.rows:
        table.add_row(Text(row.names[0]), *_cells([row.cells[group] for group in auroc.groups], arms))
    table.add_section()
    table.add_row("Mean", *_cells([auroc.mean.cells[group] for group in auroc.groups], arms), style="bold")
    if len(data.id_accuracy):
        table.add_row("ID accuracy", *_cells([id_accuracy(data)], arms))
    console.print(Text(verdict(data)))
    console.print(table)
    console.print(Text(_footnote(data, arms)))


def _footnote(data: ReportData, arms: tuple[str, ...]) -> str:
    note = f"Mean and std over {seed_count(data)}."
    if len(arms) < 2:
        return note
    chance = false_alarms(data)
    if chance is None:
        return note + " The noise is unknown, so no difference is marked."
    return (
        f"{note} * is beyond noise, sqrt(std_a^2 + std_b^2); with so many seeds, chance alone "
        f"marks about {100 * chance:.0f} % of equal pairs."
    )


def _cells(comparisons: list[Comparison], arms: tuple[str, ...]) -> list[Text]:
    cells = []
    for comparison in comparisons:
        for arm in arms:
            estimate = getattr(comparison, arm)
            cells.append(Text("".join(estimate_text(estimate).split())))
        if len(arms) > 1:
            difference = comparison.difference
            text = "-" if difference is None else points(difference) + ("*" if comparison.beyond_noise else " ")
            cells.append(Text(text, style="bold" if comparison.beyond_noise else ""))
    return cells
