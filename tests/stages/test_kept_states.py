"""A stage that is killed when its work is done, and before its record is there, goes on from its checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sio_ray.config import Config, load_config
from sio_ray.stages import fit_generator as fit_stage
from sio_ray.stages import record
from sio_ray.stages import train as train_stage
from sio_ray.stages.begun import STATE_NAME
from sio_ray.stages.layout import fit_generator_place, train_runs
from sio_ray.stages.record import run_once


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config("digits", [f"output_dir={tmp_path}", "train.seeds=[0]", "train.arms=[baseline]"])


def kill() -> None:
    raise KeyboardInterrupt


def test_a_generator_is_not_fitted_anew(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, resumed = fit_generator_place(config).folder, []

    def fit(*_: object) -> Any:
        state = folder / STATE_NAME
        resumed.append(state.exists())
        state.mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(parameters=list), 0.5, []

    def save(model: Path, *_: object) -> None:
        model.mkdir(exist_ok=True)
        (model / "model_index.json").touch()

    prepared = SimpleNamespace(open=lambda _: SimpleNamespace(info=SimpleNamespace(class_names=("a",))))
    monkeypatch.setattr(fit_stage, "PreparedSets", lambda *_: prepared)
    monkeypatch.setattr(fit_stage, "_fit_unet", fit)
    monkeypatch.setattr(fit_stage, "save_pipeline", save)
    with monkeypatch.context() as killed:
        killed.setattr(record, "git_commit", kill)
        with pytest.raises(KeyboardInterrupt):
            fit_stage.fit_generator(config)
    fit_stage.fit_generator(config)
    assert resumed == [False, True]
    assert not (folder / STATE_NAME).exists()


def test_a_classifier_keeps_its_checkpoints_and_what_a_kill_left_of_them_goes_the_next_time(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = train_runs(config)
    state = run.place.folder / STATE_NAME
    trained = SimpleNamespace(points=[{"step": 1}], state={}, best={})
    monkeypatch.setattr(train_stage, "run_on_workers", lambda *_, **__: trained)
    monkeypatch.setattr(train_stage, "final_weights", lambda _: {})
    monkeypatch.setattr(train_stage, "save_classifier", lambda *_, **__: None)
    loop_config = {"arm": "baseline", "seed": 0, "num_real": 1, "num_synthetic": 0, "synthetic_content_id": None}
    loop_config |= {"config": {}, "section": {}}
    result = train_stage._run(run.place.folder, config, run, config.train, None, loop_config, 1)  # type: ignore[arg-type]
    assert state.exists()
    run_once("train", run.place.folder, run.place.identity, config, lambda _: result)
    assert train_stage.train(config).reused
    assert not state.exists()
