"""Laws of a search's page: every trial is there, nothing is overstated, and any result renders, safe and offline."""

from __future__ import annotations

import copy
import re
from unittest import mock

import numpy as np
import pytest
from browser import BINARY, start_browser
from search_study import (
    CATEGORIES,
    FACTS,
    GRID,
    MIXED,
    WEIGHT,
    WEIGHT_AND_CHOICE,
    WEIGHT_AND_RATIO,
    make_population,
    make_result,
    make_trial,
)
from test_report_page import HOSTILE, Page

from sio_ray.report.search_page import plane_fields, render_search, write_search_page
from sio_ray.report.search_plane import Shade, draw_plane
from sio_ray.report.search_result import Search
from sio_ray.report.search_scale import Scale
from sio_ray.report.search_verdict import chance_of_confirmation, search_verdict

TITLE = "Search of digits"
PLOT = re.compile(r'<svg class="plot".*?</svg>', re.DOTALL)


def render(result):
    return render_search(result, title=TITLE, facts=FACTS)


def labels(html):
    """What the plots say that they show, by their first word."""
    return [svg["aria-label"] for svg in Page(html).all("svg") if svg.get("class") == "plot"]


def words(result):
    """The text of the page, for which no plot need be drawn."""
    with (
        mock.patch("sio_ray.report.search_plane.draw_svg", return_value="<svg></svg>"),
        mock.patch("sio_ray.report.search_pareto.draw_svg", return_value="<svg></svg>"),
        mock.patch("sio_ray.report.search_plots.draw_svg", return_value="<svg></svg>"),
    ):
        return Page(render(result)).words.replace("\xa0", " ")


@pytest.fixture(scope="module")
def html():
    return render(make_result())


def only_baseline():
    return make_result(num_trials=0)


def one_trial():
    return make_result(num_trials=1, importance=None)


def all_failed():
    trials = [make_trial(0, {}), *(make_trial(i, {"train.real_weight": 0.7}, status="diverged") for i in (1, 2))]
    return make_result(
        WEIGHT, trials=trials, best=0, confirmation=None, importance=None, pareto=[0], failed=[1, 2], constraint=None
    )


def nothing_at_all():
    trials = [make_trial(i, {"train.real_weight": 0.7} if i else {}, status="failed") for i in (0, 1)]
    return make_result(WEIGHT, trials=trials, best=0, confirmation=None, importance=None, pareto=[], failed=[0, 1])


def without_baseline():
    result = make_result(confirmation=None, constraint=None)
    result["trials"][0] = make_trial(0, {}, status="failed", error="killed")
    return result


def two_objectives():
    return make_result(objectives=["near_auroc", "val_accuracy"], stopping="none", pareto=[1, 4, 5, 6])


def two_groups():
    return make_result(objectives=["near_auroc", "far_auroc"], stopping="none", pareto=[1, 4, 5, 6])


def accuracy_first():
    return make_result(objectives=["val_accuracy"])


def one_seed():
    result = make_result(num_seeds=1)
    for trial in result["trials"]:
        trial["seeds"] = trial["seeds"][:1]
    return result


def equal_trials():
    trials = [make_trial(i, {"train.real_weight": 0.7, "train.synthetic_ratio": 0.5} if i else {}) for i in range(5)]
    return make_result(trials=trials, best=0, confirmation=None, importance=None, failed=[])


def fixed_ranges():
    return make_result({"train.lr": {"kind": "loguniform", "low": 0.1, "high": 0.1}, **WEIGHT})


def without_far_sets():
    result = make_result()
    for trial in result["trials"]:
        trial.update(far_auroc=None, far_auroc_std=None)
    return result


CASES = {
    "weight_and_ratio": make_result,
    "one_field": lambda: make_result(WEIGHT),
    "grid": lambda: make_result(GRID, algorithm="grid"),
    "choice": lambda: make_result(WEIGHT_AND_CHOICE),
    "mixed": lambda: make_result(MIXED, num_trials=20),
    "categories": lambda: make_result(CATEGORIES),
    "population": make_population,
    "no_importance": lambda: make_result(importance=None),
    **{
        case.__name__: case
        for case in (
            *(
                only_baseline,
                one_trial,
                all_failed,
                nothing_at_all,
                without_baseline,
                two_objectives,
                two_groups,
                accuracy_first,
            ),
            *(one_seed, equal_trials, fixed_ranges, without_far_sets),
        )
    },
}


@pytest.mark.parametrize("case", CASES)
def test_any_result_renders_whole_and_offline(case):
    result = CASES[case]()
    before = copy.deepcopy(result)
    html = render(result)
    assert result == before
    page = Page(html)
    table = re.search(r'<table class="sortable trials">.*?</table>', html, flags=re.DOTALL)[0]
    rows = re.findall(r'<th scope="row" data-value="(\d+)">', table)
    assert rows == [str(trial["index"]) for trial in result["trials"]]
    columns = [int(column) for column in re.findall(r'data-column="(\d+)"', table)]
    for row in table.split("<tbody>")[1].split("</tr>")[:-1]:
        assert row.count("data-value=") == len(columns)
    assert columns == list(range(len(columns)))
    assert "://" not in html
    assert "nan" not in re.findall(r"[\w.]+", page.text.lower())
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', html)) <= set(ids)
    assert set(re.findall(r"#[0-9a-f]{6}\b", "".join(PLOT.findall(html)))) == set(), "a colour that ignores the theme"
    for figure in re.findall(r"<figure>.*?</figure>", html, flags=re.DOTALL):
        assert "<figcaption>" in figure
        assert 'aria-label="' in figure


def test_same_result_same_bytes(html):
    assert render(make_result()) == html


def test_written_page_is_the_rendered_one(tmp_path, html):
    write_search_page(make_result(), tmp_path / "search.html", title=TITLE, facts=FACTS)
    assert (tmp_path / "search.html").read_text() == html
    assert [path.name for path in tmp_path.iterdir()] == ["search.html"]


def test_every_string_of_the_result_is_escaped():
    fields = {
        HOSTILE: {"kind": "choice", "values": [HOSTILE, "plain"]},
        "train.other": {"kind": "choice", "values": [HOSTILE, [HOSTILE], {HOSTILE: "a\nb"}]},
        **WEIGHT,
    }
    result = make_result(fields, detectors=[HOSTILE], algorithm=HOSTILE, stopping=HOSTILE)
    result["trials"][3]["error"] = HOSTILE
    html = render_search(result, title=HOSTILE, facts={HOSTILE: HOSTILE})
    page = Page(html)
    assert html.count("<script") == 1
    assert 'alert("' not in PLOT.sub("", html)
    assert page.text.count(HOSTILE) >= 10
    assert any(HOSTILE in label for label in labels(html))


def test_failed_trials_are_listed_with_their_error():
    text = words(make_result())
    assert "TrainError: the loss is not finite; lower train.lr." in text
    assert "No trial failed." in words(make_population())
    assert "no error was recorded" in words(all_failed())


def test_facts_are_shown():
    text = words(make_result())
    assert all(name in text and " ".join(value.split()) in text for name, value in FACTS.items())


def test_figures_are_percent_and_best_is_marked(html):
    row = re.search(r'<tr class="better">.*?</tr>', html, flags=re.DOTALL)[0]
    assert '<th scope="row" data-value="1">' in row
    assert 'data-value="0.96000000">96.0' in row
    assert "± 0.1" in Page(row).text.replace("\xa0", " ")


def test_verdict_of_a_confirmed_best():
    text = words(make_result())
    assert "96.0 ± 0.1 % against 95.0 ± 0.0 % for the baseline (+1.0 ± 0.1 points)" in text
    assert "With 3 fresh seeds the gain is +0.7 ± 0.3 points, beyond noise: confirmed." in text
    assert "12 configurations beside the baseline: 1 stopped early, 1 failed." in text
    assert "3 seeds (200, 201, 202) that the search had not seen" in text
    assert "it would confirm about 15 % of configurations that are no better" in text


@pytest.mark.parametrize(
    ("gain", "spread", "said"),
    [
        (0.002, 0.003, "the gain is +0.2 ± 0.3 points, within noise: not confirmed"),
        (-0.002, 0.003, "the difference is \N{MINUS SIGN}0.2 ± 0.3 points, within noise: not confirmed"),
        (-0.009, 0.003, "the difference is \N{MINUS SIGN}0.9 ± 0.3 points, a loss beyond noise: not confirmed"),
        (0.0003, 0.0001, "the gain is 0.0 ± 0.0 points, within noise: not confirmed"),
    ],
)
def test_verdict_of_a_best_that_fresh_seeds_do_not_confirm(gain, spread, said):
    result = make_result()
    fresh = result["trials"][-1]
    fresh["near_auroc"] = result["trials"][-2]["near_auroc"] + gain
    result["confirmation"].update(gain=gain, gain_std=spread)
    assert said in words(result)
    assert ": confirmed" not in words(result)


def test_verdict_tells_where_fresh_seeds_break_the_constraint():
    result = make_result()
    result["trials"][-1]["val_accuracy"] = result["trials"][-2]["val_accuracy"] - 0.02
    assert "But ID accuracy with them is 2.0 points below the baseline's, more than the 0.5 allowed." in words(result)
    assert "But ID accuracy" not in words(make_result())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (only_baseline, "Only the baseline was tried"),
        (all_failed, "Every configuration failed"),
        (equal_trials, "No configuration beat the baseline: none that trained to the end"),
        (nothing_at_all, "Every configuration failed"),
        (without_baseline, "the baseline gave no figure to compare with"),
        (one_seed, "gives no measure of noise"),
        (lambda: make_result(confirmation=None), "this was not confirmed with fresh seeds"),
        (make_population, "The best configuration, the schedule of trial 13"),
    ],
)
def test_verdict_does_not_overstate(make, said):
    verdict = search_verdict(Search(make()))
    assert said in verdict
    assert ": confirmed" not in verdict


def test_one_seed_marks_nothing():
    text = words(one_seed())
    assert "With a single seed the noise is unknown, so no difference is marked." in text
    assert "*" not in text


def test_what_is_missing_is_said():
    text = words(only_baseline())
    for said in ("There is no best configuration to compare", "no map of near-OOD AUROC", "There is no front to draw"):
        assert said in text
    assert "The importance of the fields is not known" in text
    assert "ID accuracy is the only objective." in words(accuracy_first())
    assert "No trial came to its first validation." in words(nothing_at_all())
    assert "Far-OOD" not in words(without_far_sets())


@pytest.mark.parametrize(
    ("fields", "drawn"),
    [
        (WEIGHT_AND_RATIO, ["near-OOD AUROC over train.real_weight and train.synthetic_ratio", "Parallel"]),
        (WEIGHT, ["near-OOD AUROC of every trial against train.real_weight"]),
    ],
)
def test_which_plots_are_drawn(fields, drawn):
    found = labels(render(make_result(fields)))
    always = ["near-OOD AUROC against ID accuracy", "near-OOD AUROC over optimiser steps"]
    assert len(found) == len(drawn) + len(always)
    assert all(label.startswith(start) for label, start in zip(found, [*drawn, *always], strict=True))


@pytest.mark.parametrize(
    ("objectives", "label", "title"),
    [
        (["near_auroc"], "near-OOD AUROC against ID accuracy", "OOD detection against ID accuracy"),
        (["val_accuracy", "near_auroc"], "near-OOD AUROC against ID accuracy", "OOD detection against ID accuracy"),
        (["near_auroc", "far_auroc"], "near-OOD AUROC against far-OOD AUROC", "Near-OOD AUROC against far-OOD AUROC"),
    ],
)
def test_the_front_is_drawn_over_what_it_weighs(objectives, label, title):
    html = render(make_result(objectives=objectives, stopping="none"))
    assert any(found.startswith(label) for found in labels(html))
    assert f"<h2>{title}</h2>" in html
    assert ("left of the dotted line" in html) == ("far_auroc" not in objectives)


def test_the_map_is_of_weight_and_ratio_or_of_what_matters_most():
    assert plane_fields(Search(make_result(MIXED))) == ["train.real_weight", "train.synthetic_ratio"]
    fields = {key: spec for key, spec in MIXED.items() if key != "train.synthetic_ratio"}
    importance = {"train.algorithm": 0.6, "train.num_epochs": 0.3, "train.lr": 0.06, "train.real_weight": 0.04}
    assert plane_fields(Search(make_result(fields, importance=importance))) == ["train.num_epochs", "train.lr"]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_result, "surface"),
        (lambda: make_result(WEIGHT_AND_CHOICE), "cells"),
        (lambda: make_result(CATEGORIES), "grid"),
        (equal_trials, "points"),
        (one_trial, "points"),
        (fixed_ranges, "points"),
    ],
)
def test_the_map_shows_between_trials_only_what_they_tell(make, kind):
    result = make()
    assert draw_plane(Search(result), *result["fields"]).kind == kind


def test_trials_that_were_stopped_give_the_map_no_colour():
    result = make_result()
    result["trials"][2]["near_auroc"] = 0.2
    assert "from 94." in labels(render(result))[0]


def test_lineage_and_schedule_of_a_population():
    search = Search(make_population())
    assert [segment["index"] for segment in search.lineage(search.best)] == [1, 5, 9, 13]
    assert [search.compares(trial) for trial in search.configurations] == [False] * 12 + [True] * 4
    html = render(make_population())
    assert [label for label in labels(html) if "steps of the best run" in label] == [
        "train.real_weight over the steps of the best run",
        "train.lr over the steps of the best run",
    ]
    assert "start: 0.6" in Page(html).text
    assert "350 to 525" in Page(html).words


@pytest.mark.parametrize("spec", [*MIXED.values(), *GRID.values()])
def test_scale_keeps_order_and_stays_on_the_axis(spec):
    scale = Scale(spec)
    values = spec.get("values") or np.linspace(spec["low"], spec["high"], 7).tolist()
    places = [scale.place(value) for value in values]
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    assert 0 <= min(places) < max(places) <= 1
    ticks, texts = scale.ticks()
    assert len(ticks) == len(texts) >= 2
    assert all(-1e-6 <= tick <= 1 + 1e-6 for tick in ticks)


def test_scale_tells_true_from_one_and_null_from_its_name():
    scale = Scale({"kind": "choice", "values": [1, True, None, 0.5]})
    assert len({scale.place(value) for value in (1, True, None, 0.5)}) == 4
    assert scale.place("gone") is None


def test_shade_grows_with_the_figure():
    shade = Shade([0.9, 0.95, 0.92])
    strengths = [shade(figure) for figure in (0.85, 0.9, 0.92, 0.95, 0.99)]
    assert strengths == sorted(strengths)
    assert strengths[0] == strengths[1] > 0
    assert strengths[-1] == strengths[-2] < 0.7
    assert Shade([0.9])(0.9) == pytest.approx(0.36)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_chance_of_confirmation_is_that_of_equal_arms(num_seeds):
    gains = np.random.default_rng(0).standard_normal((200_000, num_seeds))
    share = (gains.mean(axis=1) > gains.std(axis=1)).mean()
    assert chance_of_confirmation(num_seeds) == pytest.approx(share, abs=0.004)
    assert chance_of_confirmation(1) is None


@pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")
def test_page_in_a_browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search_pages")
    for name, result in {"mixed": make_result(MIXED, num_trials=20), "population": make_population()}.items():
        write_search_page(result, folder / f"{name}.html", title=TITLE, facts=FACTS)
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    with start_browser(tmp_path_factory.mktemp("profile")) as browser:
        for name in ("mixed", "population"):
            for width_px in (400, 1280):
                browser.open(folder / f"{name}.html", width_px=width_px, dark=width_px == 400)
                browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
                assert browser.run(fits)
        browser.open(folder / "mixed.html")
        heading = "[...document.querySelectorAll('.trials th')].find((each) => each.textContent == 'Near-OOD AUROC')"
        column = browser.run(f"{heading}.dataset.column")
        values = (
            f"[...document.querySelector('.trials').tBodies[0].rows].map((row) => row.cells[{column}].dataset.value)"
        )
        browser.run(f"{heading}.querySelector('button').focus()")
        browser.press("Enter")
        sorted_values = browser.run(values)
        assert sorted_values[-1] == "", "the failed trial has no figure, and stays last"
        assert sorted_values[:-1] == sorted(sorted_values[:-1], key=float, reverse=True)
        assert browser.pdf().startswith(b"%PDF")
        assert browser.complaints == []
