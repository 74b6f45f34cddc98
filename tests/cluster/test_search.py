"""The search under Ray Tune: only validation sets, nothing trained twice, deaths and failures told apart."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter

import pandas as pd
import psutil
import pytest
import yaml

from sio_ray.cli import run_stages
from sio_ray.config import load_config
from sio_ray.errors import ResourceError, StageError, TrainingError
from sio_ray.imageset import ImageSet
from sio_ray.stages.layout import fitted_generator
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.tune.stage import tune
from sio_ray.watching.events import read_events
from tests.tune.searched import make_sets, without_seconds, write_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def overrides(ray_cluster, tmp_path_factory):
    return make_sets(tmp_path_factory.mktemp("searched"))


def result_files(config):
    return {path: path.stat().st_mtime_ns for path in (config.run_dir / "trials").glob("*/result.json")}


def test_a_search_reads_no_test_set_continues_and_names_a_config_that_loads(overrides, tmp_path, monkeypatch, capsys):
    space = write_space(tmp_path, train__real_weight=("grid", [0.5, 0.75]))
    config = load_config(
        "digits", [*overrides, space, "tune.seeds=[7,8]", "tune.confirm_seeds=[9]", "tune.concurrent_trials=2"]
    )
    opened = []
    init = ImageSet.__init__
    # Whatever workers decode, the driver has opened first.
    monkeypatch.setattr(ImageSet, "__init__", lambda self, uri: opened.append(str(uri)) or init(self, uri))

    outcome = tune(config)
    assert opened
    assert not [uri for uri in opened if "/test" in uri]
    assert set(PreparedSets(config, "tune").ood("val")) >= {("near", "digits_6_9"), ("far", "letters")}

    rows = outcome.result["trials"]
    told = Counter(event["event"] for event in read_events(config.run_dir) if event.get("stage") == "tune")
    ends = {name: told[name] for name in ("stage_begun", "stage_done", "trial_begun", "trial_ended")}
    assert ends == {"stage_begun": 1, "stage_done": 1, "trial_begun": len(rows), "trial_ended": len(rows)}
    assert told["trial_validated"] >= len(rows)
    searched = [row for row in rows if row["phase"] == "search"]
    values = [{}, {"train.real_weight": 0.5}, {"train.real_weight": 0.75}]
    assert [row["values"] for row in searched] == values
    assert all(row["seeds"] == [7, 8] and len(row["curve"]) == 4 for row in searched)
    best = max(searched, key=lambda row: row["near_auroc"])
    assert outcome.result["best"] == best["index"]
    chosen = load_config(str(outcome.output / "best.yaml"))
    if best["index"]:
        assert chosen.train.real_weight == best["values"]["train.real_weight"]
        assert [row["seeds"] for row in rows if row["phase"] == "confirm"] == [[9], [9]]
    else:
        assert chosen.train.arms == ("baseline",)
    assert len(pd.read_parquet(outcome.output / "trials.parquet")) == len(rows)
    assert list(pd.read_csv(outcome.output / "trials.csv")["index"]) == [row["index"] for row in rows]
    assert "<!doctype html>" in (outcome.output / "search.html").read_text().lower()
    kept = {path.name.split(".")[0] for path in (outcome.output / "tensorboard").rglob("*") if path.is_file()}
    assert kept == {"events"}, "Tune's own state is pickled, and is not kept"
    assert capsys.readouterr().out == "", "standard output is for --json alone"

    # As after a kill: one trial and the end are missing.
    before = result_files(config)
    (outcome.output / "stage.json").unlink()
    lost = next(path for path in before if not (path.parent / "state.safetensors").exists())
    lost.unlink()
    again = tune(config)
    after = result_files(config)
    assert set(after) == set(before)
    assert [path for path in before if after[path] != before[path]] == [lost]
    assert without_seconds(again.result) == without_seconds(outcome.result)

    # Another search over the same values trains nothing: trials are known by what decides them.
    other = tune(load_config("digits", [*overrides, space, "tune.seeds=[7,8]"]))
    assert other.result["cost"]["num_trained"] == 0
    assert result_files(config) == after


def trial_processes():
    """The processes of this test's cluster in which Tune runs trials."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            name = child.cmdline()[0] if child.cmdline() else ""
        except psutil.Error:
            continue
        if name.startswith("ray::") and "ImplicitFunc" in name:
            found.append(child.pid)
    return found


def test_a_trial_whose_process_is_killed_goes_on_where_it_was(overrides, tmp_path):
    space = write_space(tmp_path, train__real_weight=("grid", [0.6]))
    options = [*overrides, space, "tune.num_steps=100", "tune.num_validations=5", "tune.seeds=[31]"]
    config = load_config("digits", [*options, "name=killed"])
    there = load_config("digits", options)
    for stage in ("prepare", "fit-generator", "generate"):
        for folder in there.run_dir.glob(f"{stage}-*"):
            shutil.copytree(folder, config.run_dir / folder.name)
    undisturbed = tune(there).result
    killed = []

    def kill():
        trials = config.run_dir / "trials"
        while not list(trials.glob("*/state.safetensors")):
            time.sleep(0.01)
        for pid in trial_processes():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    disturbed = tune(config).result
    killer.join(timeout=10)
    assert killed
    assert without_seconds(disturbed)["trials"] == without_seconds(undisturbed)["trials"]
    assert not list((config.run_dir / "trials").glob("*/state.safetensors"))


def test_a_trial_that_fails_is_named_and_the_others_stand(overrides, tmp_path, capsys):
    space = write_space(tmp_path, evaluate__detector_options__vim__dim=("grid", [2, 4096, 4]))
    config = load_config("digits", [*overrides, space, "tune.detectors=[vim]", "tune.max_failures_per_trial=0"])
    message = r"1 of 4 trials failed \(2\), the first with: vim: dim must be .*run the same command again to retry"
    with pytest.raises(TrainingError, match=message):
        tune(config)
    # Not recorded as done, so that the same command tries again; but all that it found is there.
    (folder,) = (
        path.parent for path in config.run_dir.glob("tune-*/best.yaml") if not (path.parent / "stage.json").exists()
    )
    rows = pd.read_parquet(folder / "trials.parquet").set_index("index")
    assert list(rows["status"]) == ["done", "done", "failed", "done"]
    assert rows.loc[2, "error"].startswith("vim: dim must be")
    told = capsys.readouterr().err
    assert "trial 2 failed: vim: dim must be" in told
    assert "Traceback" not in told
    # The networks of the three are the same, and only one of them trained: the others are judged in another way.
    trained = [row for row in rows.loc[1:3].itertuples() if row.train_s > 0]
    assert len(trained) == 1
    assert (
        yaml.safe_load((folder / "best.yaml").read_text())["evaluate"]["detector_options"].get("vim", {}).get("dim")
        != 4096
    )


def test_synthetic_sets_are_drawn_once_for_the_trials_that_share_them(overrides, tmp_path):
    grid = {"generate__num_inference_steps": ("grid", [3, 5]), "train__real_weight": ("grid", [0.5, 0.8])}
    options = [*overrides, write_space(tmp_path, **grid)]
    config = load_config("digits", options)
    before = set(config.run_dir.glob("generate-*"))
    outcome = tune(config)
    drawn = set(config.run_dir.glob("generate-*")) - before
    assert len(drawn) == 2
    assert len(outcome.result["trials"]) == 5


def test_a_generator_that_is_replaced_between_two_searches_is_noticed(overrides, tmp_path):
    generator = tmp_path / "generator"
    space = write_space(tmp_path, generate__num_inference_steps=("choice", [2]))
    options = [*overrides, space, "tune.num_trials=1", f"generate.generator={generator}"]
    for rank in (8, 4):
        config = load_config("digits", [*overrides, f"fit_generator.gaussian_rank={rank}"])
        run_stages(config, ["fit-generator"])
        shutil.rmtree(generator, ignore_errors=True)
        shutil.copytree(fitted_generator(config), generator)
        if rank == 8:
            assert len(tune(load_config("digits", options)).result["trials"]) == 2
    for other in ("tune.num_validations=2", "tune.algorithm=optuna"):  # draws ahead, and between trials
        with pytest.raises(StageError, match=r"(?s)\n  generator: '.*delete .*/trials as well, or what they found"):
            tune(load_config("digits", [*options, other]))


def test_a_search_that_learns_draws_sets_between_its_trials(overrides, tmp_path):
    space = write_space(tmp_path, generate__num_inference_steps=("choice", [6]))
    config = load_config("digits", [*overrides, space, "tune.algorithm=optuna", "tune.num_trials=1"])
    before = set(config.run_dir.glob("generate-*"))
    assert tune(config).result["trials"][1]["values"] == {"generate.num_inference_steps": 6}
    assert len(set(config.run_dir.glob("generate-*")) - before) == 1


def test_a_population_finds_a_schedule_that_runs(overrides, tmp_path):
    space = write_space(tmp_path, train__real_weight=("uniform", 0.5, 0.95))
    options = ["tune.algorithm=pbt", "tune.num_trials=3", "tune.num_validations=3", "tune.confirm_seeds=[5]"]
    options += ["train.num_steps=12"]
    config = load_config("digits", [*overrides, space, *options])
    outcome = tune(config)
    rows = outcome.result["trials"]
    segments = [row for row in rows if "generation" in row]
    assert len(segments) == 9
    assert [row["curve"][0]["step"] for row in segments] == [4, 4, 4, 8, 8, 8, 12, 12, 12]
    left = [path.parent.name for path in (config.run_dir / "trials").glob("*/state.safetensors")]
    assert all(name.startswith("networks-") for name in left), "states are forgotten at the end"
    if outcome.result["best"]:
        confirmed = rows[-1]
        assert confirmed["phase"] == "confirm"
        assert confirmed["values"] == outcome.result["best_values"]

    # Its weights are gone, so a segment that lost its result has the one before it trained again, for these alone.
    before = result_files(config)
    steps = {path: [point["step"] for point in json.loads(path.read_text())["curve"]] for path in before}
    lost = next(path for path in before if steps[path] == [8])
    lost.unlink()
    (outcome.output / "stage.json").unlink()
    again = tune(config).result
    assert again["cost"]["num_trained"] == 2
    assert without_seconds(again) == without_seconds(outcome.result)
    after = result_files(config)
    assert [path for path in before if after[path] != before[path]] == [lost]


def test_a_trial_of_two_workers_trains_under_ray_train_and_finds_the_same(overrides, tmp_path):
    space = write_space(tmp_path, train__real_weight=("grid", [0.75]))
    options = [
        *overrides,
        space,
        "tune.seeds=[41]",
        "tune.num_steps=6",
        "tune.num_validations=2",
        "train.sync_batch_norm=true",
    ]
    alone = tune(load_config("digits", options)).result["trials"]
    config = load_config("digits", [*options, "tune.workers_per_trial=2"])
    # The number of workers decides nothing, so without its result the last trial, and it alone, is trained again.
    max((config.run_dir / "trials").glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns).unlink()
    for record in config.run_dir.glob("tune-*/stage.json"):
        record.unlink()
    outcome = tune(config).result
    assert outcome["cost"]["num_trained"] == 1
    together = outcome["trials"]
    for one, two in zip(alone, together, strict=True):
        assert two["status"] == "done"
        for metric in ("near_auroc", "far_auroc", "val_accuracy"):
            assert two[metric] == pytest.approx(one[metric], abs=0.01)
        assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-3)


def test_more_trials_than_the_cluster_holds_are_refused(overrides, tmp_path):
    space = write_space(tmp_path, train__real_weight=("grid", [0.5]))
    message = "tune.concurrent_trials=9 needs 9 CPUs at once, this Ray cluster has 4; ask for fewer runs"
    with pytest.raises(ResourceError, match=re.escape(message)):
        tune(load_config("digits", [*overrides, space, "tune.concurrent_trials=9"]))
