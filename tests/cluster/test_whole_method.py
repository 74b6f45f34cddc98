"""The whole method on real digits, small: what comes out, what is kept, and what a change of config redoes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sio_ray.classifier.checkpoint import load_classifier
from sio_ray.cli import main, run_stages
from sio_ray.config import load_config
from sio_ray.errors import CheckpointError, ConfigError, ImageSetError, ResourceError, StageError
from sio_ray.generate.generator import find_generator
from sio_ray.imageset import ImageSet, write_image_set
from sio_ray.stages import stage_function
from sio_ray.stages.layout import run_order

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_stage_leaves_what_the_next_one_reads(finished):
    _, config, outcomes = finished
    assert list(outcomes) == ["prepare", "fit-generator", "generate", "train", "evaluate", "report"]
    assert not any(outcome["reused"] for outcome in outcomes.values())
    synthetic = ImageSet(f"{outcomes['generate']['output']}/images")
    real = ImageSet(f"{outcomes['prepare']['output']}/id/train")
    assert len(synthetic) == round(0.25 * len(real))
    counts = synthetic.manifest.class_counts
    assert sum(counts) == len(synthetic)
    assert max(counts) - min(counts) <= 1
    assert synthetic.info.provenance["source"] == "synthetic"
    assert synthetic.info.provenance["base_seed"] == config.generate.base_seed
    arrays = synthetic.read()
    assert np.array_equal(arrays.image_ids, np.arange(len(synthetic)))
    assert np.array_equal(arrays.labels, arrays.image_ids % 6)


def test_the_generator_opens_as_a_pipeline_of_safetensors(finished):
    _, _, outcomes = finished
    folder = f"{outcomes['fit-generator']['output']}/model"
    assert find_generator(str(folder)).num_classes == 6
    curve = outcomes["fit-generator"]["result"]["curve"]
    assert [point["step"] for point in curve] == [10, 20, 30]
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_both_arms_take_the_same_steps_and_differ(finished):
    _, _, outcomes = finished
    runs = outcomes["train"]["result"]
    assert set(runs) == {"baseline, seed 0", "sio, seed 0"}
    assert {run["step"] for run in runs.values()} == {20}
    weights = [load_classifier(run["checkpoint"]).state_dict() for run in runs.values()]
    assert not all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])


def test_metrics_follow_from_the_scores_that_are_kept(finished):
    _, config, outcomes = finished
    folder = config.run_dir / outcomes["evaluate"]["output"]
    scores = pd.read_parquet(folder / "scores.parquet")
    result = json.loads((folder / "metrics.json").read_text())
    metrics = pd.DataFrame(result["metrics"])
    # A classifier after 20 steps may be wrong of all images of a class, without which some detectors cannot do.
    assert set(result["failed"]) <= {"openmax"}
    num_detectors = len(config.evaluate.detectors) - len(result["failed"])
    assert len(metrics) == 2 * num_detectors * 4  # arms, detectors, OOD test sets
    row = metrics[(metrics.arm == "sio") & (metrics.detector == "knn") & (metrics.group == "near")].iloc[0]
    mine = scores[(scores.arm == "sio") & (scores.detector == "knn")]
    id_scores = mine[mine.group == "id"].ood_score.to_numpy()
    ood_scores = mine[mine.image_set == row.ood_set].ood_score.to_numpy()
    wins = (ood_scores[:, None] > id_scores).mean() + 0.5 * (ood_scores[:, None] == id_scores).mean()
    assert row.auroc == pytest.approx(wins, abs=1e-12)


def test_a_second_run_does_nothing_and_prints_its_results_as_json(finished, capsys):
    overrides, _, first = finished

    def run():
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["run", "digits", *overrides, "--json"])
        assert stop.value.code in (0, None)
        return json.loads(capsys.readouterr().out)

    # Whether its own report is still there is up to earlier tests, which may have had others made of the same figures.
    before = run()
    printed = run()
    assert all(outcome["reused"] for outcome in printed.values())
    for stage, outcome in printed.items():
        assert outcome["result"] == before[stage]["result"]
        assert stage == "report" or outcome["result"] == first[stage]["result"]


@pytest.mark.parametrize("arm", ["baseline", "sio"])
def test_one_arm_alone_is_evaluated_and_reported(finished, arm):
    overrides, _, _ = finished
    config = load_config("digits", [*overrides, f"train.arms=[{arm}]", "evaluate.detectors=[msp,energy]"])
    outcomes = run_stages(config, run_order(config))
    assert {row["arm"] for row in outcomes["evaluate"]["result"]["summary"]} == {arm}
    assert outcomes["train"]["reused"]
    assert "SIO on digits" in (config.run_dir / "report.html").read_text()


def test_a_corrupt_shard_is_named_and_its_remedy_works(finished, capsys):
    overrides, config, outcomes = finished
    images = Path(outcomes["generate"]["output"], "images")
    shard = next(images.glob("part-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    for outputs in config.run_dir.glob("outputs-*/synthetic-*"):
        shutil.rmtree(outputs)  # or nobody would read the shard again
    with pytest.raises(SystemExit) as stop:
        # With options that no other test evaluates by: what is done already reads no shard.
        main(["evaluate", "digits", *overrides, "evaluate.detectors=[gen]", "evaluate.detector_options.gen.gamma=0.35"])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(rf"error: \S*{shard.name} is corrupt .*; delete the shard and manifest.json, and run .*", error)
    shard.unlink()
    (images / "manifest.json").unlink()
    again = run_stages(config, ["generate"])["generate"]
    assert not again["reused"]
    assert shard.read_bytes() == whole
    assert again["result"]["content_id"] == outcomes["generate"]["result"]["content_id"]


def test_the_report_stands_alone(finished):
    _, config, outcomes = finished
    page = (config.run_dir / "report.html").read_text()
    assert outcomes["report"]["output"] == str(config.run_dir / "report.html")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "data:image/png;base64," in page
    assert "<svg" in page


def test_a_stage_without_its_input_says_which_to_run(tmp_path, tiny):
    config = load_config("digits", [*tiny, f"output_dir={tmp_path}"])
    for stage in ("fit-generator", "generate", "train", "tune"):
        with pytest.raises(StageError, match=rf"^{stage} needs the output of prepare .*run `sio-ray prepare`"):
            stage_function(stage)(config)
    with pytest.raises(StageError, match=r"^report needs the output of prepare"):
        stage_function("report")(config)
    assert [path.name for path in config.run_dir.rglob("*")] == ["events.jsonl"]


def test_gpus_that_are_not_there_are_refused_before_work(finished, ray_cluster, monkeypatch):
    overrides, _, _ = finished
    cpus = {"CPU": 4.0, "memory": 1e9}
    monkeypatch.setattr(ray_cluster, "cluster_resources", lambda: cpus)
    node = {"Alive": True, "NodeID": ray_cluster.get_runtime_context().get_node_id(), "Resources": cpus}
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [node])
    for stage, field, new_work in (
        ("fit-generator", "fit_generator.gpus_per_worker=1", "fit_generator.seed=9"),
        ("train", "train.gpus_per_worker=1", "train.weight_decay=0"),
        ("evaluate", "evaluate.gpus_per_task=1", "evaluate.detectors=[gen]"),
        ("generate", "generate.gpus_per_actor=0.5", "generate.base_seed=9"),
    ):
        config = load_config("digits", [*overrides, field, new_work])
        with pytest.raises(ResourceError, match=r"GPU.* 0[ ;.]"):
            stage_function(stage)(config)


def test_a_synthetic_set_that_does_not_fit_the_real_one_is_refused(finished, tmp_path):
    overrides, _, outcomes = finished
    synthetic = ImageSet(f"{outcomes['generate']['output']}/images")
    arrays = synthetic.read()
    names = synthetic.info.model_copy(update={"class_names": ("a", "b", "c", "d", "e", "f")})
    write_image_set(tmp_path / "names", names, arrays.images, arrays.labels)
    size = synthetic.info.model_copy(update={"height_px": 4})
    write_image_set(tmp_path / "size", size, np.ascontiguousarray(arrays.images[:, :, :4]), arrays.labels)
    for name, message in (
        ("names", r"classes of .*/names are \['a', 'b'"),
        ("size", r"pictures of .*/size are \(1, 4, 8\)"),
    ):
        config = load_config("digits", [*overrides, f"train.synthetic_set={tmp_path / name}"])
        with pytest.raises(ImageSetError, match=message):
            stage_function("train")(config)
    config = load_config(
        "digits",
        [*overrides, f"train.synthetic_set={outcomes['generate']['output']}/images", "train.synthetic_ratio=2"],
    )
    with pytest.raises(
        ConfigError, match=r"train.synthetic_ratio must be at most 0\.249.*, got 2.0; give a set with more"
    ):
        stage_function("train")(config)


def test_a_checkpoint_of_another_architecture_is_refused(finished, tmp_path):
    _, _, outcomes = finished
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    source = outcomes["train"]["result"]["sio, seed 0"]["checkpoint"]
    for name in ("model.safetensors", "architecture.json"):
        text = Path(source, name).read_bytes()
        (folder / name).write_bytes(text.replace(b'"width": 8', b'"width": 16'))
    with pytest.raises(CheckpointError, match=r"are of another architecture than small_cnn of width 16"):
        load_classifier(folder)
