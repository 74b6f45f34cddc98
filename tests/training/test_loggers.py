"""Loggers: what is logged can be read back with each tool's own reader, and a missing package is refused."""

from __future__ import annotations

import importlib.util

import pytest
from tensorboard_files import tensorboard_values

from sio_ray.errors import ConfigError
from sio_ray.training.loggers import MLFLOW_NAME, TENSORBOARD_NAME, check_loggers, open_loggers

POINTS = [{"step": 10, "loss": 0.5, "val_accuracy": 0.25}, {"step": 20, "loss": 0.125, "val_accuracy": 0.75}]
#: What is expected: (name, step) to value.
VALUES = {(name, point["step"]): point[name] for point in POINTS for name in ("loss", "val_accuracy")}


def log_all(name, folder):
    params = {"learning_rate": 0.1}
    with open_loggers([name], experiment="digits", run="sio, seed 0", folder=folder, params=params) as log:
        for point in POINTS:
            log(point)


def all_values(folder):
    return {key: value for path in folder.iterdir() for key, value in tensorboard_values(path).items()}


def test_tensorboard_shows_the_curve_and_a_continued_run_adds_to_it(tmp_path):
    log_all("tensorboard", tmp_path)
    assert all_values(tmp_path / TENSORBOARD_NAME) == VALUES
    with open_loggers(["tensorboard"], experiment="digits", run="sio", folder=tmp_path, params={}) as log:
        log({"step": 30, "loss": 2.0})
    assert all_values(tmp_path / TENSORBOARD_NAME) == VALUES | {("loss", 30): 2.0}


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of its file store
def test_mlflow_shows_the_curve_under_the_runs_name(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    log_all("mlflow", tmp_path / "train-sio-seed0-abc")
    client = MlflowClient(f"sqlite:///{tmp_path / MLFLOW_NAME}")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.run_name == "sio, seed 0"
    assert run.data.params == {"learning_rate": "0.1"}
    found = {
        (metric.key, metric.step): metric.value
        for name in ("loss", "val_accuracy")
        for metric in client.get_metric_history(run.info.run_id, name)
    }
    assert found == VALUES


@pytest.mark.filterwarnings("ignore")  # W&B's own
def test_wandb_takes_the_curve_without_a_network(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with open_loggers(["wandb"], experiment="digits", run="sio, seed 0", folder=tmp_path, params={}) as log:
        for point in POINTS:
            log(point)
        summary = dict(wandb.run.summary)
        assert (wandb.run.name, wandb.run.project, wandb.run.id) == ("sio, seed 0", "digits", tmp_path.name)
    assert {key: summary[key] for key in ("loss", "val_accuracy")} == {"loss": 0.125, "val_accuracy": 0.75}
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_logger_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    check_loggers(["tensorboard", "mlflow"])
    with pytest.raises(ConfigError) as error:
        check_loggers(["tensorboard", "wandb"])
    assert str(error.value) == (
        "train.loggers must be of packages that are installed, got 'wandb'; "
        "pip install wandb on every node, or leave it out."
    )
