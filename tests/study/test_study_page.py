"""A study from its file to its page: what is averaged, what is named as missing, and whose numbers are shown."""

from __future__ import annotations

import json
import re

import pytest
from study_samples import leave_evaluation

from sio_ray.commands.study import study as study_command
from sio_ray.errors import ConfigError, StageError
from sio_ray.methods import METHODS
from sio_ray.stages.evaluation_results import METRICS_NAME
from sio_ray.stages.layout import (
    evaluate_place,
    fitted_generator,
    generate_place,
    run_order,
    synthetic_set_uri,
    train_runs,
)
from sio_ray.stages.train import checkpoint_name
from sio_ray.study.markdown import to_markdown
from sio_ray.study.plan import config_at, config_of, read_study
from sio_ray.study.results import results_of

TEXT = """
config: digits
title: A small study
goal_points: 2.79
ablation_methods: [msp, knn]
ablations:
  - name: weight
    title: How much weight real images have
    column: weight
    points:
      - label: "0.8, as above"
      - {label: "0.5", change: {train.real_weight: 0.5}}
      - {label: "0.2", change: {train.real_weight: 0.2}}
  - name: curation
    title: Whether pictures are chosen
    column: chosen by
    points:
      - label: nobody
      - {label: the baseline, change: {generate.curation.classifier: "{baseline}"}}
  - name: real_images
    title: How many real images there are
    column: share
    points:
      - {label: all}
      - {label: "half: 50 %", change: {prepare.train_fraction: 0.5}}
  - name: generator_images
    title: What the generator has learnt from
    column: share
    points:
      - {label: all}
      - {label: half, change: {generate.generator: "{generator of real_images: half: 50 %}"}}
"""


@pytest.fixture
def planned(tmp_path):
    """The file, the study, and its config, whose table has been run."""
    path = tmp_path / "study.yaml"
    path.write_text(TEXT)
    study = read_study(path)
    overrides = [f"output_dir={tmp_path}/runs", "methods=[paper,grad_norm]", "train.seeds=[0,1,2]"]
    return path, study, config_of(study, path, overrides), overrides


def test_a_point_changes_one_thing(planned):
    _, study, config, _ = planned
    weight, curation, *_ = study.ablations
    assert config_at(weight.points[0], study, config) is config
    changed = config_at(weight.points[1], study, config)
    assert changed.train.real_weight == 0.5
    assert changed.method_names == ("msp", "knn")
    assert generate_place(changed) == generate_place(config)
    judged = config_at(curation.points[1], study, config).generate.curation.classifier
    first = next(run for run in train_runs(config) if run.arm == "baseline")
    assert (first.algorithm, first.seed, first.member) == ("cross_entropy", 0, 0)
    assert judged == first.place.folder / checkpoint_name(config)


def test_a_point_draws_from_the_generator_that_another_has_fitted(planned):
    _, study, config, _ = planned
    half, other = study.ablations[2].points[1], study.ablations[3].points[1]
    drawn = config_at(other, study, config)
    assert drawn.generate.generator == str(fitted_generator(config_at(half, study, config)))
    assert drawn.prepare == config.prepare, "only the generator knows less"
    assert "fit-generator" not in run_order(drawn)
    assert len({synthetic_set_uri(each) for each in (config, drawn, config_at(half, study, config))}) == 3


def test_means_are_over_the_papers_methods_and_an_ablations_over_its_own(planned):
    _, study, config, _ = planned
    leave_evaluation(config, 0.04)
    leave_evaluation(config_at(study.ablations[0].points[1], study, config), -0.02)
    results = results_of(study, config)
    assert [row.name for row in results.rows] == list(METHODS)
    near = results.mean.cells["near", "auroc"]
    mean_length = sum(len(name) for name in METHODS if name != "grad_norm") / 18
    assert near.baseline.mean == pytest.approx(0.8 + 0.01 + 0.001 * mean_length)
    assert near.difference == pytest.approx(0.04)
    rows = results.ablations[0][1]
    assert [row.cells and row.cells["near", "auroc"].difference for row in rows] == [
        pytest.approx(0.04),
        pytest.approx(-0.02),
        None,
    ]
    # MSP and KNN: three letters each.
    assert rows[0].cells["near", "auroc"].baseline.mean == pytest.approx(0.8 + 0.01 + 0.003)


def test_the_page_says_what_was_found_and_what_was_not_run(planned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, study, config, overrides = planned
    leave_evaluation(config, 0.04)
    leave_evaluation(config_at(study.ablations[0].points[2], study, config), -0.02)
    page, pictures = tmp_path / "out" / "RESULTS.md", tmp_path / "out" / "docs"
    study_command(path, overrides, page, pictures, only_write=True)
    text = page.read_text()
    assert "**+4.00** points" in text
    assert "gain on CIFAR-10 is +2.79 points, which is reached here" in text
    assert "18 of 18 methods gain (sign test, p < 0.001 if" in text
    assert "| 0.5 | not run |" in text
    assert re.search(r"\| 0\.2 \|.*\| \N{MINUS SIGN}2\.00 ± 0\.00 \|", text)
    assert "GradNorm is in the authors' code but not in the paper's mean" in text
    assert str(tmp_path) not in text, "where this machine keeps its runs is nobody's business"
    linked = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert linked == ["docs/near.svg", "docs/far.svg", "docs/weight.svg"]
    for link in linked:
        assert (page.parent / link).read_bytes().startswith(b"<?xml")
    before = text
    study_command(path, overrides, page, pictures, only_write=True)
    assert page.read_text() == before


def test_a_point_without_one_of_the_methods_is_not_compared(planned):
    _, study, config, _ = planned
    leave_evaluation(config, 0.04)
    point = config_at(study.ablations[0].points[1], study, config)
    leave_evaluation(point, -0.02)
    path = evaluate_place(point).folder / METRICS_NAME
    measured = json.loads(path.read_text())
    measured["metrics"] = [row for row in measured["metrics"] if row["detector"] != "knn"]
    path.write_text(json.dumps(measured))
    results = results_of(study, config)
    row = results.ablations[0][1][1]
    assert (row.cells, row.lacking) == (None, ("KNN",))
    assert "| 0.5 | not to compare: no figure of KNN | | | | | | | |" in to_markdown(results, {}, "sio-ray study")


@pytest.mark.parametrize("methods", ["[]", "[grad_norm]"])
def test_a_study_needs_a_method_of_the_papers_mean(planned, methods):
    path, study, _, _ = planned
    with pytest.raises(
        ConfigError, match=r"^methods must be of the paper's table in a study, as its result is their m"
    ):
        config_of(study, path, [f"methods={methods}"])


def test_without_its_table_a_study_says_what_to_run(planned):
    _, study, config, _ = planned
    with pytest.raises(StageError, match=r"needs the output of prepare"):
        results_of(study, config)
    assert not evaluate_place(config).folder.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: [", r"^STUDY must be a YAML file, got .*near line"),
        ("config: digits", r"^title must be as the study's form asks \(Field required\)"),
        (TEXT.replace("column: weight", "colum: weight"), r"^ablations\.0\.column must be as the study's form asks"),
        (
            TEXT.replace("of real_images: half: 50 %", "of real_images: 50 %"),
            r"^ablations\.generator_images\.points must be .* up, .*'\{generator of real_images: 50 %\}'; name",
        ),
        (
            TEXT.replace("{baseline}", "{generator of real_images: all}"),
            r"^ablations\.curation\.points must be .* further up",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_study(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^STUDY must be a file that exists, got '.*none\.yaml'; check the path"):
        read_study(tmp_path / "none.yaml")
