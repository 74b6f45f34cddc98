"""What the report gathers: figures and pictures of a run, of a run that was moved, and of a folder from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_study import DETECTORS, make_data, write_evaluation

from sio_ray.config import build_config, load_config
from sio_ray.errors import ConfigError, StageError
from sio_ray.imageset import ImageSet
from sio_ray.stages.layout import evaluate_place
from sio_ray.stages.prepare import prepare
from sio_ray.stages.record import run_once
from sio_ray.stages.report import REPORT_NAME, evaluations, gather, report, write_page, write_tables
from sio_ray.stages.report_inputs import gather as gather_from
from sio_ray.stages.report_inputs import source_in, source_of


@pytest.fixture(scope="module")
def study():
    return make_data()


@pytest.fixture(scope="module")
def config(tmp_path_factory, study):
    """Of a run that was prepared and, so its record says, evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    config = load_config("digits", [f"output_dir={folder}", "report.detector=knn"])
    prepare(config)
    place = evaluate_place(config)

    def work(output: Path):
        write_evaluation(output, study)
        scores = pd.read_parquet(output / "scores.parquet")
        # Told apart by what they are multiplied with; the lowest of KNN's are other images than energy's.
        factor = scores["detector"].map({name: -1.0 if name == "knn" else 1.0 for name in DETECTORS})
        scores.assign(ood_score=scores["ood_score"] * factor).to_parquet(output / "scores.parquet", index=False)
        return {}

    run_once("evaluate", place.folder, place.identity, config, work)
    return config


@pytest.fixture
def foreign(tmp_path, study):
    """A folder with nothing but metrics and scores."""
    write_evaluation(tmp_path / "theirs", study, whole=False)
    return tmp_path / "theirs"


def test_figures_are_those_that_evaluate_wrote(config, study):
    data = gather(config)
    for name in ("metrics", "id_accuracy"):
        pd.testing.assert_frame_equal(getattr(data, name), getattr(study, name))
    for name in ("settings", "sweeps", "costs", "extraction", "overlaps"):
        assert getattr(data, name) == getattr(study, name)
    assert data.explained_variance == study.explained_variance
    pd.testing.assert_frame_equal(data.projection, study.projection)
    assert data.titles["vim"] == "ViM"
    assert data.quality["num_copies"] == 0
    assert "label_agreement_by_class" not in data.quality


def test_scores_of_the_shown_detector_alone_are_read(config, study):
    data = gather(config)
    assert data.detector == "knn"
    assert len(data.scores) == len(study.scores)
    assert np.array_equal(data.scores["ood_score"], -study.scores["ood_score"])


def test_mistakes_show_the_images_that_the_scores_name(config):
    data = gather(config)
    assert [(worst.group, worst.arm) for worst in data.mistakes] == [
        (group, arm) for group in ("near", "far", "id") for arm in ("baseline", "sio")
    ]
    run = data.scores[(data.scores["arm"] == "sio") & (data.scores["seed"] == 0)]
    near = run[run["group"] == "near"].sort_values("ood_score").head(10)
    (shown,) = [worst for worst in data.mistakes if (worst.group, worst.arm) == ("near", "sio")]
    assert [image.image_id for image in shown.images] == near["image_id"].tolist()
    whole = ImageSet(next(config.run_dir.glob("prepare-*")) / "near_ood/test/digits_6_9").read()
    for image in shown.images:
        assert image.name == "digits_6_9"
        assert np.array_equal(image.picture, whole.images[image.image_id])
    assert {image.name for worst in data.mistakes if worst.group == "id" for image in worst.images} <= set("012345")


def test_pictures_are_there_without_synthetic_ones(config):
    data = gather(config)
    assert [grid.name for grid in data.class_grids] == list("012345")
    assert all(len(grid.real) == config.report.images_per_class for grid in data.class_grids)
    assert all(grid.synthetic is None for grid in data.class_grids)
    assert len(data.ood_grids) == 4
    assert data.classifier_curves == []


def test_the_page_is_found_where_it_does_not_move(config):
    outcome = report(config)
    assert outcome.output == config.run_dir / REPORT_NAME
    page = outcome.output.read_text()
    assert "Worst mistakes: KNN" in page
    assert "No training curve of the classifiers was recorded." in page
    assert report(config).reused


def test_a_folder_gives_what_its_config_gives_wherever_the_run_is(config, tmp_path):
    shutil.copytree(config.run_dir, tmp_path / "elsewhere" / "digits")
    (folder,) = (tmp_path / "elsewhere" / "digits").glob("evaluate-*")
    here, there = gather(config), gather_from(source_in(folder))
    pd.testing.assert_frame_equal(here.metrics, there.metrics)
    assert len(there.class_grids) == 6
    assert len(there.mistakes) == 6
    assert there.config.run_dir == tmp_path / "elsewhere" / "digits"
    shutil.rmtree(next(folder.parent.glob("prepare-*")))
    assert gather_from(source_in(folder)).class_grids == ()


def test_what_is_shown_can_be_changed_for_a_folder_but_not_what_was_done(config):
    folder = evaluate_place(config).folder
    assert gather_from(source_in(folder, ["report.detector=vim", "report.title=Mine"])).title == "Mine"
    with pytest.raises(
        ConfigError, match=r"^override must be of the section report where a folder is given, got 'train"
    ):
        source_in(folder, ["train.seeds=[0]"])


def test_a_foreign_folder_is_shown_as_far_as_it_goes(foreign, study, tmp_path):
    data = gather_from(source_in(foreign))
    assert data.config is None
    assert data.overlaps is None
    assert data.projection is None
    assert data.detector == "energy"
    pd.testing.assert_frame_equal(data.metrics, study.metrics)
    write_page([source_in(foreign)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for missing in (
        "There is no config of this evaluation that this version reads",
        "No picture of the features was recorded.",
        "The image sets are not at hand",
        "No synthetic set was measured.",
        "The time of the detectors was not recorded.",
    ):
        assert missing in page
    with pytest.raises(
        ConfigError, match=r"override must be left out where there is no config, got 'report.detector=knn'"
    ):
        source_in(foreign, ["report.detector=knn"])


def test_a_record_of_another_version_is_no_config(config, tmp_path):
    folder = tmp_path / "digits" / "evaluate-old"
    shutil.copytree(evaluate_place(config).folder, folder)
    record = json.loads((folder / "stage.json").read_text())
    record["config"]["train"]["no_longer_a_field"] = 1
    (folder / "stage.json").write_text(json.dumps(record))
    source = source_in(folder)
    assert source.config is None
    assert gather_from(source).provenance["machine"] == record["machine"]


@pytest.mark.parametrize("name", ["metrics.json", "scores.parquet"])
def test_a_folder_of_something_else_is_refused(foreign, name):
    (foreign / name).unlink()
    with pytest.raises(StageError, match=rf"theirs must hold {name} of an evaluation, got none; give the folder"):
        source_in(foreign)


def test_a_config_that_was_not_evaluated_names_the_stage_to_run(config):
    other = config.model_copy(update={"name": "other"})
    with pytest.raises(StageError, match=r"^report needs the output of prepare"):
        source_of(other)
    changed = load_config("digits", [f"output_dir={config.output_dir}", "train.seeds=[7]"])
    with pytest.raises(StageError, match=r"^report needs the output of evaluate .*run `sio-ray evaluate`"):
        source_of(changed)


def test_runs_of_one_name_are_told_apart(config, foreign, tmp_path):
    folder = evaluate_place(config).folder
    twin = tmp_path / "digits" / "evaluate-another"
    shutil.copytree(folder, twin)
    names = [run.name for run in evaluations([source_in(folder), source_in(twin)])]
    assert names == [f"digits ({folder.name.removeprefix('evaluate-')})", "digits (another)"]
    copy = tmp_path / "copy" / "theirs"
    shutil.copytree(foreign, copy)
    names = [run.name for run in evaluations([source_in(foreign), source_in(copy)])]
    assert all(name.startswith("theirs (") and name.endswith("theirs)") for name in names)
    assert len(set(names)) == 2
    with pytest.raises(ConfigError, match=r"^RUN must be given once, got 'theirs'; leave out"):
        evaluations([source_in(foreign), source_in(foreign)])


def test_tables_are_written_under_the_name_of_the_page(config, foreign, tmp_path):
    sources = [source_of(config), source_in(foreign)]
    page = tmp_path / "out" / "two.html"
    write_page(sources, page)
    paths = write_tables(sources, page, {"tex", "csv", "json"})
    assert paths == [page.with_suffix(f".{suffix}") for suffix in ("csv", "json", "tex")]
    assert "Comparison of 2 runs" in page.read_text()
    assert [run["name"] for run in json.loads(paths[1].read_text())["runs"]] == ["digits", "theirs"]
    assert write_tables(sources, page, ()) == []


def test_given_outputs_have_no_pictures_of_prepared_sets(config):
    values = config.model_dump(mode="json")
    values["evaluate"]["outputs"] = {"baseline": ["somewhere"]}
    data = gather_from(dataclasses.replace(source_of(config), config=build_config(values)))
    assert data.class_grids == ()
    assert data.mistakes == ()
    assert not data.trained_here
