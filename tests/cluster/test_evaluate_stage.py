"""Evaluation of a finished run: what is kept, what is done again, and networks and features made elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markdown_commands import read_document, sio_ray_commands

from sio_ray.cli import main, run_stages
from sio_ray.config import load_config
from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.evaluation.subjects import extract_sets
from sio_ray.imageset import ImageSet, write_image_set
from sio_ray.ood.detectors import DETECTORS
from sio_ray.ood.store import OutputStore
from sio_ray.stages.evaluate import _check_overlaps
from sio_ray.stages.evaluated import evaluated_sets, subjects_of, trained_on
from sio_ray.stages.preflight import check
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import RECORD_NAME

# The first test of each process waits until one of them has made the finished run.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUICK = "evaluate.detectors=[msp,knn,react]"


def evaluate(overrides, *more):
    config = load_config("digits", [*overrides, *more])
    outcome = run_stages(config, ["evaluate"])["evaluate"]
    folder = Path(outcome["output"])
    return json.loads((folder / "metrics.json").read_text()), folder


def table(metrics):
    columns = ["arm", "seed", "detector", "group", "ood_set"]
    return pd.DataFrame(metrics["metrics"]).sort_values(columns, ignore_index=True)


def times(folder, pattern):
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_every_figure_is_there_for_every_detector(finished):
    overrides, _, _ = finished
    metrics, folder = evaluate(overrides, "evaluate.detectors=[all]", "train.arms=[baseline]")
    detectors = {row["detector"] for row in metrics["metrics"]}
    # A G-ODIN head is not there, 1 % of the training set has no 100 neighbours, and a classifier after 20 steps may be
    # wrong of all images of a class.
    assert set(metrics["failed"]) <= {"openmax", "she"}
    assert detectors == set(DETECTORS) - {"g_odin", "nnguide"} - set(metrics["failed"])
    assert len(metrics["settings"]) == len(detectors)
    for row in metrics["settings"]:
        tried = [each for each in metrics["sweeps"] if each["detector"] == row["detector"]]
        assert row["val_auroc"] == max((each["val_auroc"] for each in tried), default=None)
    assert {row["detector"] for row in metrics["costs"]} == detectors
    assert metrics["extraction"]["num_images"] > 0
    assert len(metrics["id_accuracy"]) == 1
    assert metrics["overlaps"] == []
    assert (folder / "openood").is_dir()
    projection = pd.read_parquet(folder / "projection.parquet")
    assert set(projection.group) == {"train", "id", "near", "far"}


def test_another_detector_costs_its_own_work_alone(finished):
    overrides, config, _ = finished
    evaluate(overrides, "evaluate.detectors=[msp]")
    outputs = times(config.run_dir, "outputs-*/*/outputs-*")
    evaluate(overrides, "evaluate.detectors=[msp,odin]", "evaluate.detector_options.odin.epsilon=0.01")
    assert times(config.run_dir, "outputs-*/*/outputs-*") == outputs


def test_what_is_missing_is_done_again_and_comes_out_the_same(finished):
    overrides, config, _ = finished
    before, folder = evaluate(overrides, QUICK)
    scores = (folder / "scores.parquet").read_bytes()
    parts = times(folder, "parts/*/*.json")
    (folder / "metrics.json").unlink()
    lost = folder / "parts" / "sio-seed0" / "knn.json"
    lost.unlink()
    store = next(config.run_dir.glob("outputs-*/id-test-*"))
    shard = next(store.glob("outputs-*"))
    whole = shard.read_bytes()
    shard.unlink()
    after, _ = evaluate(overrides, QUICK)
    assert shard.read_bytes() == whole
    assert {path for path, time in times(folder, "parts/*/*.json").items() if time != parts[path]} == {lost}
    assert (folder / "scores.parquet").read_bytes() == scores
    assert table(after).equals(table(before))


def test_given_checkpoints_have_the_figures_of_trained_ones(finished):
    overrides, _, outcomes = finished
    trained, _ = evaluate(overrides, QUICK)
    runs = outcomes["train"]["result"]
    given = {arm: runs[f"{arm}, seed 0"]["checkpoint"] for arm in ("baseline", "sio")}
    fields = [f"evaluate.checkpoints.{arm}=[{path}]" for arm, path in given.items()]
    evaluated, _ = evaluate(overrides, QUICK, *fields)
    assert table(evaluated).equals(table(trained))
    assert evaluated["quality"] == {}
    other = shutil.copytree(given["sio"], Path(given["sio"]).parent / "copy")
    ensemble, _ = evaluate(
        overrides, "evaluate.detectors=[msp]", f"evaluate.checkpoints.baseline=[{given['baseline']}+{other}]"
    )
    assert set(table(ensemble)["arm"]) == {"baseline"}
    both = f"evaluate.checkpoints.{{arm}}=[{given['sio']}]"
    same, _ = evaluate(overrides, QUICK, both.format(arm="baseline"), both.format(arm="sio"))
    arms = [of_arm.drop(columns="arm").reset_index(drop=True) for _, of_arm in table(same).groupby("arm")]
    pd.testing.assert_frame_equal(*arms)
    with pytest.raises(
        ConfigError, match=r"^evaluate\.checkpoints\.sio must be different networks, .*; leave the copy"
    ):
        evaluate(overrides, QUICK, f"evaluate.checkpoints.sio=[{given['sio']},{other}]")


def write_given(config, folder):
    """The features of the baseline as somebody else would give them."""
    prepared = PreparedSets(config, "evaluate")
    sets = evaluated_sets(config, prepared)
    subject = next(each for each in subjects_of(config, sets) if each.arm == "baseline")
    names = {"train": ("id/train", sets.train), "val": ("id/val", sets.val), "test": ("id/test", sets.test)}
    names |= {f"{g}/{name}": (f"{g}/test/{name}", uri) for (g, name), uri in sets.ood.items()}
    names |= {f"val_{g}/{name}": (f"{g}/val/{name}", uri) for (g, name), uri in sets.val_ood.items()}
    for name, (key, uri) in names.items():
        outputs = OutputStore(subject.store(key, uri)).read()
        path = folder / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"features": outputs.features, "logits": outputs.logits, "labels": outputs.labels}
        np.savez(path, image_id=outputs.image_ids.numpy(), **{key: each.numpy() for key, each in arrays.items()})
    layer = subject.last_layer
    np.savez(folder / "last_layer.npz", weight=layer.weight.numpy(), bias=layer.bias.numpy())


def test_given_features_have_the_figures_of_their_network(finished, tmp_path):
    overrides, _, _ = finished
    trained, _ = evaluate(overrides, QUICK)
    write_given(load_config("digits", [*overrides, QUICK]), tmp_path)
    evaluated, _ = evaluate(overrides, QUICK, f"evaluate.outputs.baseline=[{tmp_path}]")
    mine = table(trained)
    pd.testing.assert_frame_equal(table(evaluated), mine[mine["arm"] == "baseline"].reset_index(drop=True))
    with pytest.raises(ConfigError, match=r"evaluate\.detectors must be of features and logits alone .* got 'odin'"):
        evaluate(overrides, "evaluate.detectors=[msp,odin]", f"evaluate.outputs.baseline=[{tmp_path}]")
    # Shifted ID images, among which every second OOD image is: they make the full spectrum harder.
    (tmp_path / "id_shifted").mkdir()
    far = sorted(tmp_path.glob("far/*.npz"))[0]
    with np.load(far) as arrays:
        shifted = {name: values[::2] for name, values in arrays.items()}
    np.savez(tmp_path / "id_shifted" / "made.npz", **{**shifted, "labels": np.zeros(len(shifted["labels"]), int)})
    full, folder = evaluate(
        overrides, "evaluate.detectors=[msp]", f"evaluate.outputs.baseline=[{tmp_path}]", "evaluate.full_spectrum=true"
    )
    standard, spectrum = pd.DataFrame(full["metrics"]), pd.DataFrame(full["full_spectrum_rows"])
    far_rows = standard["ood_set"] == far.stem
    assert (spectrum[far_rows]["auroc"] < standard[far_rows]["auroc"]).all()
    assert list(folder.glob("openood/**/fsood/*.csv"))
    assert full["overlaps"] is None, "of features nobody can say"
    with np.load(tmp_path / "test.npz") as test:
        right = np.r_[test["logits"].argmax(1) == test["labels"], shifted["logits"].argmax(1) == 0]
    assert full["full_spectrum_accuracy"][0]["accuracy"] == pytest.approx(right.mean())


def test_a_full_spectrum_that_is_not_there_is_refused(finished):
    overrides, _, _ = finished
    with pytest.raises(ConfigError, match=r"^evaluate\.full_spectrum must be false for source digits .*openood do"):
        evaluate(overrides, QUICK, "evaluate.full_spectrum=true")


def test_test_images_that_were_trained_on_are_counted_and_named(finished, tmp_path, capsys):
    overrides, _, _ = finished
    config = load_config("digits", [*overrides, QUICK, "train.arms=[baseline]"])
    prepared = PreparedSets(config, "evaluate")
    sets = evaluated_sets(config, prepared)
    train = ImageSet(sets.train).read()
    info = ImageSet(sets.train).info.model_copy(update={"class_names": ()})
    images = np.concatenate([train.images[[5, 9]], 255 - train.images[:3]])
    write_image_set(tmp_path / "leaky", info, images, np.full(5, -1))
    sets.ood["near", "leaky"] = str(tmp_path / "leaky")
    extracted, _ = extract_sets(subjects_of(config, sets), sets, config.evaluate, config.cluster)
    capsys.readouterr()
    (overlap,) = _check_overlaps(extracted[0], trained_on(config, prepared), config.evaluate)
    assert (overlap.tested, overlap.other, overlap.num_images) == ("near/test/leaky", "id/train", 2)
    text = "2 images of near/test/leaky are in id/train too (image_id 0 is 5 there, 1 is 9 there)"
    assert f"warning: {text}" in " ".join(capsys.readouterr().err.split())
    strict = config.evaluate.model_copy(update={"on_overlap": "stop"})
    with pytest.raises(EvaluationError) as error:
        _check_overlaps(extracted[0], trained_on(config, prepared), strict)
    assert str(error.value) == (
        f"{text}; a network that has seen them cannot be judged by them: leave them out, or set "
        "evaluate.on_overlap=warn."
    )


def test_what_was_warned_of_stops_a_later_run_that_shall_not_pass_it(finished):
    overrides, _, _ = finished
    _, folder = evaluate(overrides, QUICK)
    record = json.loads((folder / RECORD_NAME).read_text())
    assert record["result"]["overlaps"] == []
    evaluate(overrides, QUICK, "evaluate.on_overlap=stop")
    row = {"ood_set": "near/test/letters", "other_set": "id/train", "num_images": 1200}
    (folder / RECORD_NAME).write_text(json.dumps({**record, "result": {**record["result"], "overlaps": [row]}}))
    try:
        evaluate(overrides, QUICK)
        with pytest.raises(EvaluationError, match=r"^1,200 images of near/test/letters are in id/train too; a network"):
            evaluate(overrides, QUICK, "evaluate.on_overlap=stop")
    finally:
        (folder / RECORD_NAME).write_text(json.dumps(record))


def test_the_commands_of_the_docs_run(finished, tmp_path, monkeypatch):
    overrides, _, _ = finished
    evaluate(overrides, QUICK)
    write_given(load_config("digits", [*overrides, QUICK]), tmp_path / "features")
    monkeypatch.chdir(tmp_path)
    commands = sio_ray_commands(read_document("docs/evaluation.md"))
    ran = []
    for arguments in commands:
        is_report = arguments[0] == "report" and "imagenet_200" not in arguments
        if is_report or any(each.startswith("evaluate.outputs") for each in arguments):
            arguments = [*arguments, *overrides, *([QUICK, "report.detector=msp"] if is_report else [])]
        elif arguments[0] != "detectors":  # other tests run the like
            config = load_config(
                arguments[1], [each for each in arguments[2:] if not each.startswith("--") and "=" in each]
            )
            check(config.model_copy(update={"output_dir": tmp_path / "runs"}), ["evaluate"])
            continue
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in (0, None)
        ran.append(arguments[0])
    assert ran == ["detectors", "detectors", "evaluate", "report"]
