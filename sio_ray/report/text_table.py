"""Print the numbers of the report to the terminal: both arms and their difference per detector."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sio_ray.report.comparison import ARM_NAMES, AUROC, Comparison, false_alarms
from sio_ray.report.data import Evaluation
from sio_ray.report.numbers import points
from sio_ray.report.tables import arms_of, id_accuracy, metric_table, seed_count, seed_counts
from sio_ray.report.verdict import verdict


def print_table(data: Evaluation, console: Console) -> None:
    """Print the verdict, AUROC per detector and group, and ID accuracy; numbers are those of the page.

    Raises:
        EvaluationError: `data.metrics` is empty or its runs do not fit together.
    """
    arms = arms_of(data)
    auroc = metric_table(data, AUROC)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=False)
    table.add_column("AUROC, %")
    for group_name in auroc.columns.values():
        for heading in [ARM_NAMES[arm] for arm in arms] + ["diff"] * (len(arms) > 1):
            table.add_column(f"{group_name}\n{heading}", justify="right", no_wrap=True)
    for row in auroc.rows:
        table.add_row(Text(row.names[0]), *_cells([row.cells[group] for group in auroc.columns], arms))
    table.add_section()
    if auroc.mean:
        table.add_row("Mean", *_cells([auroc.mean.cells[group] for group in auroc.columns], arms), style="bold")
    if len(data.id_accuracy):
        table.add_row("ID accuracy", *_cells([id_accuracy(data)], arms))
    console.print(Text(verdict(data)))
    console.print(table)
    console.print(Text(_footnote(data, arms)))


def _footnote(data: Evaluation, arms: tuple[str, ...]) -> str:
    note = f"Mean and std over {seed_count(data)}."
    if len(arms) < 2:
        return note
    chance = false_alarms(seed_counts(data).values())
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
            cells.append(Text("".join(str(estimate or "-").split())))
        if len(arms) > 1:
            difference = comparison.difference
            text = "-" if difference is None else points(difference) + ("*" if comparison.beyond_noise else " ")
            cells.append(Text(text, style="bold" if comparison.beyond_noise else ""))
    return cells
