"""Laws of the files beside the page: every figure of the tables in full, and LaTeX that is balanced and escaped."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from report_study import DETECTORS, OOD_SETS, make_data

from sio_ray.report.comparison import AUROC, METRICS
from sio_ray.report.latex import escape, to_latex
from sio_ray.report.rows import figure_rows, to_csv, to_json
from sio_ray.report.tables import metric_table
from sio_ray.report.verdict import verdict


def test_every_figure_is_a_row(data):
    rows = figure_rows(data)
    keys = [(row["metric"], row["detector"], row["group"], row["ood_set"]) for row in rows]
    places = {*OOD_SETS, ("near", "mean"), ("far", "mean")}
    assert len(set(keys)) == len(keys)
    assert set(keys) == {
        *((metric.key, name, *place) for metric in METRICS for name in (*DETECTORS, "mean") for place in places),
        ("id_accuracy", None, None, None),
    }


def test_rows_hold_the_numbers_of_the_tables_unrounded(data):
    rows = {
        (row["detector"], row["group"]): row
        for row in figure_rows(data)
        if row["metric"] == "auroc" and row["ood_set"] == "mean"
    }
    table = metric_table(data, AUROC)
    for name, row in zip((*DETECTORS, "mean"), (*table.rows, table.mean), strict=True):
        for group, cell in row.cells.items():
            written = rows[name, group]
            for arm in ("baseline", "sio"):
                estimate = getattr(cell, arm)
                found = tuple(written[f"{arm}_{field}"] for field in ("mean", "std", "num_seeds"))
                assert found == (estimate.mean, estimate.std, estimate.num_seeds)
            assert written["difference"] == cell.difference
            assert written["noise"] == cell.noise
            assert written["beyond_noise"] is cell.beyond_noise


def test_csv_reads_back(data):
    other = make_data(name="other, with a comma", arms=("baseline",))
    read = list(csv.DictReader(io.StringIO(to_csv([data, other]))))
    expected = figure_rows(data) + figure_rows(other)
    assert read == [{key: "" if value is None else str(value) for key, value in row.items()} for row in expected]
    assert {row["run"] for row in read} == {"digits", "other, with a comma"}


def test_json_has_the_figures_and_how_they_came_about(data):
    (run,) = json.loads(to_json([data]))["runs"]
    assert run["figures"] == figure_rows(data)
    assert run["verdict"] == " ".join(verdict(data).split())
    assert run["config"]["train"]["num_steps"] == 600
    assert run["provenance"]["git_commit"] == "c710d95"
    assert run["settings"] == list(data.settings)
    assert run["costs"] == list(data.costs)
    assert [detector["title"] for detector in run["detectors"]][2] == "Energy"
    (foreign,) = json.loads(to_json([make_data(config=None)]))["runs"]
    assert foreign["config"] is None


def test_full_spectrum_has_rows_of_its_own(data):
    rows = figure_rows(make_data(full_spectrum=data.metrics.assign(auroc=0.5)))
    shifted = [row for row in rows if row["metric"] == "full_spectrum_auroc"]
    assert len(shifted) == len(rows[:-1]) / 2 / len(METRICS)
    assert {row["sio_mean"] for row in shifted} == {0.5}


def tabulars(text):
    """(column letters, rows of fields) of every tabular."""
    found = []
    for letters, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        lines = [line.removesuffix(r" \\") for line in body.strip().splitlines() if line.endswith(r"\\")]
        found.append((letters, [re.split(r"(?<!\\)&", line) for line in lines]))
    return found


def width(fields):
    spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", field) for field in fields]
    return sum(int(span[1]) if span else 1 for span in spans)


@pytest.mark.parametrize("arms", [("baseline", "sio"), ("sio",)])
def test_latex_tables_are_balanced_and_as_wide_as_they_say(arms):
    data = make_data(arms=arms)
    text = to_latex([data])
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(METRICS) + 1
    for rule in ("toprule", "bottomrule"):
        assert text.count(f"\\{rule}") == len(METRICS) + 1
    assert text.count("$") % 2 == 0
    for letters, rows in tabulars(text):
        assert {width(fields) for fields in rows} == {len(letters)}
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(set(labels)) == len(labels)


def test_latex_is_bold_where_the_difference_is_beyond_noise(data):
    table = metric_table(data, AUROC)
    _, rows = tabulars(to_latex([data]))[0]
    for fields, row in zip(rows[2:], (*table.rows, table.mean), strict=False):
        assert fields[0].strip() == row.names[0]
        for start, cell in zip((1, 4), row.cells.values(), strict=True):
            bold = [r"\mathbf" in field for field in fields[start : start + 2]]
            assert bold == [cell.winner == "baseline", cell.winner == "sio"]
            assert f"{100 * cell.sio.mean:.1f}" in fields[start + 1]
            assert f"{100 * cell.difference:+.1f}" in fields[start + 2]


def test_a_seed_alone_makes_nothing_bold_and_has_no_spread():
    text = to_latex([make_data(seeds=(0,))])
    assert r"\mathbf" not in text
    assert r"\pm" not in text


def test_latex_of_an_arm_without_a_detector_has_dashes(data):
    metrics = data.metrics
    text = to_latex([make_data(metrics=metrics[(metrics["arm"] != "sio") | (metrics["detector"] != "vim")])])
    assert re.search(r"ViM & \$[\d.]+ \\pm [\d.]+\$ & -- & --", text)


def test_names_are_escaped():
    assert escape(r"a_b & 5% $x$ {y} ~^\ <#>") == (
        r"a\_b \& 5\% \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}\#\textgreater{}"
    )
    text = to_latex([make_data(titles={"msp": "A_1 & B", "knn": "50%"})])
    assert r"A\_1 \& B &" in text
    assert r"digits\_6\_9 &" in text


def test_several_runs_have_a_table_per_metric_and_group(data):
    other = make_data(name="other_run", shift=0.1)
    text = to_latex([data, other])
    assert text.count(r"\begin{table}") == 1 + 2 * len(METRICS)
    letters, rows = tabulars(text)[1]
    assert letters == "l" + "r" * 6
    assert r"other\_run" in "&".join(rows[0])
