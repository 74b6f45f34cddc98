"""Laws of the page: well-formed, self-contained, escaped, deterministic, and whole with parts of the data missing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from report_study import MANY_DETECTORS, MANY_SETS, TITLES, make_data

from sio_ray.config import build_config, to_yaml
from sio_ray.report.comparison import AUROC
from sio_ray.report.data import ClassGrid, Curve, Mistake, Mistakes
from sio_ray.report.numbers import percent, points
from sio_ray.report.page import render_report
from sio_ray.report.pictures import MAX_CLASSES
from sio_ray.report.tables import metric_table
from sio_ray.report.verdict import verdict

VOID = {"meta", "link", "img", "input", "br", "wbr"}
HOSTILE = """<script>alert("x")</script>'&{{ 7*7 }}"""


class Page(HTMLParser):
    """Checks that tags nest, and collects them and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def html(data):
    return render_report(data)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def words(data):
    """The text of the page, for which no plot need be drawn; that takes most of the time."""
    with mock.patch("sio_ray.report.plots.draw_svg", return_value="<svg></svg>"):
        return Page(render_report(data)).words


def test_same_data_same_bytes(data, html):
    assert render_report(data) == html


def test_page_is_small_enough_to_send(html):
    assert len(html.encode()) < 3_000_000


def test_page_asks_the_network_for_nothing(html, page):
    assert "://" not in html
    assert "@import" not in html
    for tag, attrs in page.tags:
        assert "srcset" not in attrs
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            if attrs.get(name) is not None:
                assert attrs[name].startswith(("data:", "#")), f"{tag} {name}={attrs[name][:60]}"
    assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_policy_forbids_requests_and_allows_just_our_script(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_pictures_and_plots_are_described(page):
    images = page.all("img")
    assert len(images) == 6 * 2 + 4 + 6 * 10
    assert all(image["alt"].strip() for image in images)
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    plots = [svg for svg in page.all("svg") if svg.get("class") == "plot"]
    assert len(plots) == 2 + 2 + 2 + 2 + 2 + 1
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)


def test_ids_are_unique_and_references_resolve(html, page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    references = re.findall(r'(?:url\(#|href="#)([^")]+)', html)
    assert set(references) <= set(ids)


def test_plots_follow_the_theme(html):
    plots = "".join(re.findall(r"<svg class=\"plot\".*?</svg>\s*</div>", html, flags=re.DOTALL))
    assert "var(--baseline)" in plots
    assert "var(--sio)" in plots
    assert "currentColor" in plots
    colours = set(re.findall(r"#[0-9a-f]{6}\b", plots))
    assert colours == set(), "a colour that does not change with the theme"


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_have_scopes_and_rows_of_one_width(html):
    for table in re.findall(r"<table.*?</table>", html, flags=re.DOTALL):
        assert all("scope=" in heading for heading in re.findall(r"<th\b[^>]*>", table))
        widths = set()
        for row in re.findall(r"<tr>.*?</tr>", table.split("</thead>")[1], flags=re.DOTALL):
            cells = re.findall(r"<t[hd]\b([^>]*)>", row)
            widths.add(sum(int((re.search(r'colspan="(\d+)"', cell) or [0, 1])[1]) for cell in cells))
        assert len(widths) == 1


def test_sortable_headings_point_at_their_column(html):
    for table in re.findall(r'<table class="sortable[ a-z]*">.*?</table>', html, flags=re.DOTALL):
        columns = [int(column) for column in re.findall(r'data-column="(\d+)"', table)]
        body = re.search(r"<tbody>\s*<tr>(.*?)</tr>", table, flags=re.DOTALL)[1]
        cells = re.findall(r"<t[hd]\b[^>]*>", body)
        assert sorted(columns) == list(range(len(cells)))
        assert all("data-value=" in cell for cell in cells)


def test_page_has_the_numbers_and_the_verdict(data, page):
    assert " ".join(verdict(data).split()) in page.words
    for row in metric_table(data, AUROC).rows:
        for cell in row.cells.values():
            assert f"{percent(cell.sio.mean)} ± {percent(cell.sio.std)}" in page.words.replace("\xa0", " ")
            assert points(cell.difference) in page.words
    assert "√(stda² + stdb²)" in page.words
    assert "about 42 % of comparisons" in page.words


def test_page_reproduces_the_run(data, page):
    for part in (
        *data.commands,
        *data.provenance["versions"].values(),
        "c710d95",
        "2 CPU cores, no GPU",
        "2026-11-14 09:30 UTC",
    ):
        assert part in page.words
    assert to_yaml(data.config) in page.text
    assert "5 min 56 s" in page.words


def test_copies_are_a_share_of_what_was_compared(data):
    quality = {**data.quality, "num_synthetic": 50_000, "num_compared": 200, "num_copies": 5}
    page = render_report(dataclasses.replace(data, quality=quality))
    assert "5 of 200 synthetic images that were compared (2.5&nbsp;%)" in page


def test_quality_is_told_in_words(page):
    text = page.words
    assert "give 94.8 % of the 650 synthetic images the label that was asked for" in text
    assert "chance is 16.7 %" in text
    assert "0.95 \N{MULTIPLICATION SIGN}" in text
    assert "0 of 650 synthetic images (0.0 %) equal a training image or are nearer to one than any held-out" in text


def test_every_string_of_the_data_is_escaped(data):
    picture = np.zeros((2, 3, 8, 8), np.uint8)
    hostile = make_data(
        title=HOSTILE,
        class_grids=[ClassGrid(HOSTILE, picture, picture, 0.5)],
        ood_grids=[ClassGrid(HOSTILE, picture)],
        metrics=data.metrics.replace({"detector": {"msp": HOSTILE + "$\\frac$"}, "ood_set": {"noise": HOSTILE}}),
        papers={"knn": HOSTILE},
        settings=[{"arm": "sio", "detector": "knn", "setting": {HOSTILE: HOSTILE}}],
        overlaps=[{"ood_set": HOSTILE, "other_set": HOSTILE, "num_images": 2}],
        mistakes=[Mistakes("sio", 0, "near", [Mistake(picture[0], HOSTILE, 3, 0.5)])],
        commands=[HOSTILE],
        provenance={"versions": {HOSTILE: HOSTILE}, "machine": HOSTILE, "date": HOSTILE, "git_commit": HOSTILE},
    )
    html = render_report(dataclasses.replace(hostile, titles={}))
    page = Page(html)
    assert html.count("<script") == 1
    assert "alert(&#34;" in html
    assert 'alert("' not in re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    assert page.text.count(HOSTILE) >= 10
    assert "{{ 7*7 }}" in page.text


def test_names_in_any_script_render(data):
    name = "\N{CJK UNIFIED IDEOGRAPH-732B}\N{OGHAM LETTER BEITH}"
    assert name in Page(render_report(make_data(metrics=data.metrics.replace({"detector": {"knn": name}})))).words


def test_options_are_said_to_be_chosen_only_where_they_were(data):
    assert "with the options that were best on validation sets" in words(data)
    default = [{"arm": "sio", "seed": 0, "detector": "knn", "setting": {}, "val_auroc": None}]
    text = words(make_data(settings=default, sweeps=[]))
    assert "with default or given options" in text
    assert "best on validation sets" not in text
    assert "number of settings tried" not in text


def test_a_detector_that_failed_is_named_with_the_reason():
    text = words(make_data(failed={"vim": "sio, seed 0: dim must be <less>; leave it out."}))
    assert "Without ViM, which could not score every network: sio, seed 0: dim must be <less>; leave it out." in text


@pytest.mark.parametrize("arm", ["baseline", "sio"])
def test_one_arm_renders_and_says_so(arm):
    data = make_data(arms=(arm,))
    html = render_report(data)
    page = Page(html)
    assert f"Only {'the baseline' if arm == 'baseline' else 'SIO'} was run." in page.words
    assert "Difference" not in page.text
    assert "beyond noise" not in page.words


def test_one_seed_says_that_noise_is_unknown():
    text = words(make_data(seeds=(3,)))
    assert "With a single seed the noise is unknown" in text
    assert "±" not in text


def test_missing_parts_are_named(data):
    bare = make_data(
        generator_curve=None,
        classifier_curves=[],
        quality={},
        scores=data.scores.iloc[:0],
        stage_times=[],
        commands=[],
        provenance={},
        config=None,
        projection=None,
        mistakes=[],
        settings=[],
        sweeps=[],
        costs=[],
        extraction={},
        overlaps=None,
        id_accuracy=data.id_accuracy.iloc[:0],
        class_grids=[ClassGrid(grid.name, grid.real) for grid in data.class_grids],
    )
    text = words(bare)
    assert "There is no loss curve of the generator" in text
    assert "No training curve of the classifiers was recorded." in text
    assert "No synthetic set was measured." in text
    assert "There are no scores of the detector Energy" in text
    assert "No picture of the features was recorded." in text
    assert "There are no scores or no pictures to show mistakes of Energy." in text
    assert "Which settings of the detectors were chosen was not recorded." in text
    assert "The time of the detectors was not recorded." in text
    assert "The time of the stages was not recorded." in text
    assert "Whether test sets share images with training sets was not recorded." in text
    assert "There is no config of this evaluation that this version reads" in text
    assert "The config was not recorded." in text
    assert "The image sets are not at hand" in words(dataclasses.replace(bare, class_grids=[], ood_grids=[]))
    assert "There are no synthetic images to show." in text


def test_near_ood_alone_renders(data):
    near = data.metrics[data.metrics["group"] == "near"]
    mistakes = [worst for worst in data.mistakes if worst.group != "far"]
    text = words(make_data(metrics=near, mistakes=mistakes))
    assert "Far-OOD" not in text
    assert "far-OOD AUROC" not in text


def test_detector_of_the_plots_is_the_one_asked_for(data):
    other = make_data(detector="vim", scores=data.scores.assign(ood_score=-data.scores["ood_score"]))
    assert "ROC curves and score densities: ViM" in words(other)
    assert "Worst mistakes: ViM" in words(other)


def test_curves_without_accuracy_and_with_odd_losses_render():
    points_ = [{"step": 1.0, "loss": 0.0}, {"step": 2.0, "loss": float("inf")}, {"step": 3.0}]
    assert "Classifiers: training loss" in render_report(make_data(classifier_curves=[Curve("a", "sio", points_)]))


def test_constant_scores_render(data):
    assert "ROC curves" in render_report(make_data(scores=data.scores.assign(ood_score=1.0)))


def test_many_classes_show_those_of_the_lowest_agreement():
    picture = np.zeros((3, 1, 8, 8), np.uint8)
    grids = [ClassGrid(f"class{i:03}", picture, picture, 1 - i / 100) for i in range(60)]
    page = Page(render_report(make_data(class_grids=grids)))
    shown = set(re.findall(r"class\d{3}", page.text))
    assert shown == {f"class{i:03}" for i in range(60 - MAX_CLASSES, 60)}
    assert f"{MAX_CLASSES} of 60 classes are shown, those of the lowest agreement." in page.words


def test_all_detectors_are_in_the_plots(html):
    first = re.search(r'<svg class="plot".*?</svg>', html, flags=re.DOTALL)[0]
    assert all(f">{title}<" in first for title in TITLES.values())


def test_a_study_of_many_detectors_stays_small_enough_to_send():
    html = render_report(make_data(titles=MANY_DETECTORS, ood_sets=MANY_SETS))
    assert len(html.encode()) < 3_000_000
    page = Page(html)
    assert "over 25 detectors" in page.words
    assert "25 detectors score 7 OOD sets" in page.words


def test_heat_map_shows_every_value_of_both_arms_and_the_difference(data, html):
    maps = re.findall(r'<table class="sortable heat">.*?</table>', html, flags=re.DOTALL)
    means = data.metrics.groupby(["arm", "detector", "group", "ood_set"], sort=False)["auroc"].mean()
    for table, values in zip(maps, (means["sio"], means["baseline"], means["sio"] - means["baseline"]), strict=True):
        shown = [float(value) for value in re.findall(r'<td data-value="([^"]*)"', table)]
        assert shown == pytest.approx(values.tolist(), abs=1e-6)
        shares = [int(share) for share in re.findall(r"--share:(\d+)%", table)]
        assert len(shares) == len(values)
        assert all(0 <= share <= 60 for share in shares)


def test_overlaps_are_a_warning(data):
    rows = [
        {"ood_set": "near/tin", "other_set": "outliers", "num_images": 1200},
        {"ood_set": "far/x", "other_set": "y", "num_images": 0},
    ]
    text = words(make_data(overlaps=rows))
    assert "1 200 of the images of near/tin equal one of outliers, pixel for pixel." in text
    assert "far/x" not in text
    assert "No test image equals one that was trained on" in words(make_data(overlaps=rows[1:]))
    assert "Sets that share images" not in words(data)


def test_given_networks_are_not_said_to_be_trained_here():
    config = build_config({"name": "theirs", "evaluate": {"checkpoints": {"baseline": ["openood:best.ckpt"]}}})
    text = words(make_data(arms=("baseline",), config=config))
    assert "The networks were given, not trained here." in text
    assert "Every run takes" not in text


def test_mistakes_say_where_they_are_from(page):
    alts = [image["alt"] for image in page.all("img")]
    assert "image 6 of digits_6_9" in alts
    assert "Near-OOD images that look most ID, SIO, seed 0" in page.words
    assert "ID images that look most OOD, Baseline, seed 0" in page.words


def test_features_say_how_much_variance_the_axes_show(data, html):
    assert "first principal axis (41 % of variance)" in html
    assert "second (17 % of variance)" in html
    unknown = render_report(make_data(explained_variance={}))
    assert ">first principal axis<" in unknown


def test_full_spectrum_is_a_table_of_its_own(data):
    lower = data.metrics.assign(auroc=data.metrics["auroc"] - 0.1)
    text = words(make_data(full_spectrum=lower))
    assert "covariate-shifted ID images among ID" in text
    assert percent(metric_table(make_data(metrics=lower), AUROC).rows[0].cells["near"].sio.mean) in text
    assert "full spectrum" not in words(data).lower()
