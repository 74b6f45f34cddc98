"""The tables as LaTeX with booktabs: both arms side by side, the better one bold only where it is beyond noise."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sio_ray.report.comparison import ARM_NAMES, AUROC, FPR, GROUP_NAMES, Comparison, Estimate
from sio_ray.report.data import Evaluation
from sio_ray.report.numbers import percent
from sio_ray.report.tables import (
    MetricTable,
    Row,
    arms_of,
    detector_table,
    groups_of,
    id_accuracy,
    metric_table,
    metrics_of,
    ood_set_rows,
    run_table,
    seed_count,
)

_ESCAPES = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\N{NO-BREAK SPACE}": "~",
}
_HEAD = r"""% Tables of sio_ray's report. Needs \usepackage{booktabs}.
% Bold: the difference of the arms is larger than sqrt(std_a^2 + std_b^2), std over seeds with ddof 0.
"""


def to_latex(runs: Sequence[Evaluation]) -> str:
    """One table per metric of one evaluation, or per metric and group of several, and one more that sums up.

    Args:
        runs: at least one.
    """
    arms = arms_of(*runs)
    tables = _one(runs[0], arms) if len(runs) == 1 else _several(runs, arms)
    return "\n".join([_HEAD, *tables])


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _one(data: Evaluation, arms: tuple[str, ...]) -> list[str]:
    over = f"mean and standard deviation over {seed_count(data)}, in percent"
    tables = []
    for metric in metrics_of(data):
        table = metric_table(data, metric)
        last = [table.mean] if table.mean else []
        if len(data.id_accuracy):
            last.append(Row(("ID accuracy",), {next(iter(table.columns)): id_accuracy(data)}))
        caption = f"{metric.name} per detector, unweighted mean over the OOD sets of a group: {over}."
        tables.append(_table(caption, _label(data.name, metric.key), ("Detector",), table, arms, last))
    both = {metric.key: metric.name for metric in (AUROC, FPR)}
    sets = MetricTable(AUROC, both, tuple(ood_set_rows(data)), None)
    caption = f"AUROC and FPR@95 per OOD set, mean over detectors: {over}."
    return [*tables, _table(caption, _label(data.name, "sets"), ("OOD set", "Group"), sets, arms)]


def _several(runs: Sequence[Evaluation], arms: tuple[str, ...]) -> list[str]:
    over = "mean and standard deviation over seeds, in percent"
    caption = f"Mean AUROC over the detectors that all runs have, and ID accuracy: {over}."
    tables = [_table(caption, "tab:runs", ("Run",), run_table(runs), arms)]
    for metric in metrics_of(*runs):
        for group in dict.fromkeys(group for run in runs for group in groups_of(run.metrics)):
            table = detector_table(runs, metric, group)
            caption = f"{GROUP_NAMES[group]} {metric.name} per detector and run: {over}."
            last = [table.mean] if table.mean else []
            tables.append(_table(caption, f"tab:{group}-{_plain(metric.key)}", ("Detector",), table, arms, last))
    return tables


def _table(
    caption: str,
    label: str,
    heads: tuple[str, ...],
    table: MetricTable,
    arms: tuple[str, ...],
    last: Sequence[Row] = (),
) -> str:
    """A floating table; `last` are rows under a rule of their own."""
    headings = [ARM_NAMES[arm] for arm in arms] + ["$\\Delta$"] * (len(arms) > 1)
    width, first = len(headings), len(heads) + 1
    starts = range(first, first + width * len(table.columns), width)
    over = [f"\\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" for name in table.columns.values()]
    rules = [f"\\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts]
    body = [_line(row, len(heads), table, arms) for row in table.rows]
    if last:
        body += [r"\midrule", *(_line(row, len(heads), table, arms) for row in last)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{'l' * len(heads)}{'r' * (width * len(table.columns))}}}",
            r"\toprule",
            " & ".join([*[""] * len(heads), *over]).strip() + r" \\",
            " ".join(rules),
            " & ".join([*heads, *headings * len(table.columns)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _line(row: Row, num_heads: int, table: MetricTable, arms: tuple[str, ...]) -> str:
    fields = [*map(escape, row.names), *[""] * (num_heads - len(row.names))]
    for key in table.columns:
        fields += _cells(row.cells.get(key), arms)
    return " & ".join(fields) + r" \\"


def _cells(cell: Comparison | None, arms: tuple[str, ...]) -> list[str]:
    if cell is None:
        return [""] * (len(arms) + (len(arms) > 1))
    cells = [_estimate(getattr(cell, arm), bold=cell.winner == arm) for arm in arms]
    if len(arms) > 1:
        cells.append("--" if cell.difference is None else f"${100 * cell.difference:+.1f}$")
    return cells


def _estimate(value: Estimate | None, *, bold: bool) -> str:
    if value is None:
        return "--"
    mean = f"\\mathbf{{{percent(value.mean)}}}" if bold else percent(value.mean)
    return f"${mean} \\pm {percent(value.std)}$" if value.num_seeds > 1 else f"${mean}$"


def _label(name: str, key: str) -> str:
    return f"tab:{_plain(name)}-{_plain(key)}"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)
