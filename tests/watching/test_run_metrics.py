"""Metrics: a table that keeps Prometheus' conventions, recorded where Ray runs, counted exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import ray

import sio_ray
from sio_ray.progress import progress_bars
from sio_ray.search.trial import TrialResult
from sio_ray.training.board import Board, Row, Spent
from sio_ray.training.watch import WatchedRun, _Shown
from sio_ray.tune.watch import Watch
from sio_ray.watching import metrics
from sio_ray.watching.context import bound
from sio_ray.watching.metrics import METRICS, count, show
from tests.search.search_samples import played, tuned

SOURCES = {path: path.read_text() for path in Path(sio_ray.__file__).parent.rglob("*.py")}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_named_as_prometheus_has_it_and_recorded_somewhere(name: str) -> None:
    metric = METRICS[name]
    assert re.fullmatch(r"sio(_[a-z]+)+", name)
    assert name.endswith("_total") == (metric.kind == "counter")
    assert ("_seconds" in name) == (metric.unit == "seconds")
    assert name.endswith("_ratio") == (metric.unit == "ratio")
    assert metric.description.endswith(".")
    assert not {"shard", "trial", "image", "step", "le"} & set(metric.tags), "labels have few values"
    recorded = [path for path, text in SOURCES.items() if re.search(rf'(count|show)\(\s*"{name}"', text)]
    assert recorded


def test_nothing_is_recorded_where_ray_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_make", lambda *_: pytest.fail("made a metric"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    count("sio_images_total", 3, actor=0)
    monkeypatch.setattr(ray, "is_initialized", lambda: pytest.fail("asked the cluster of a client"))
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    count("sio_images_total", 3, actor=0)
    monkeypatch.delitem(__import__("sys").modules, "ray")
    show("sio_actors", 2)


def test_labels_come_from_the_context_and_the_call(recorded) -> None:
    with bound(run="digits", stage="generate", trial=7):
        count("sio_images_total", 3, actor=1)
        count("sio_images_total", 4, actor=1)
        count("sio_images_total", 0, actor=2)
        show("sio_actors", 5)
        show("sio_actors", 2)
    labels = (("actor", "1"), ("run", "digits"), ("stage", "generate"))
    assert recorded.values == {"sio_images_total": {labels: 7}, "sio_actors": {labels[1:]: 2}}


def test_a_label_or_a_kind_that_a_metric_does_not_have_is_a_mistake_of_ours(recorded) -> None:
    with pytest.raises(AssertionError, match=r"^sio_images_total has no label \['shard'\]$"):
        count("sio_images_total", 1, actor=1, shard=3)
    with pytest.raises(AssertionError, match=r"^sio_images_total is a counter$"):
        show("sio_images_total", 1, actor=1)


def test_a_board_gives_points_once_and_steps_always() -> None:
    board = Board()
    board.update("a", 1, Spent(1, 0.5), {"step": 1, "loss": 2.0})
    board.update("a", 2, Spent(2, 1.0), {"step": 2, "loss": 1.0})
    board.update("b", 7, Spent(7, 3.0))
    taken = board.take()
    assert (taken["a"].step, [point["step"] for point in taken["a"].points]) == (2, [1, 2])
    assert board.take() == {"a": Row(2, Spent(2, 1.0)), "b": Row(7, Spent(7, 3.0))}


def test_counters_of_a_run_are_sums_over_all_of_its_processes(recorded) -> None:
    labels = {"arm": "sio", "seed": "0", "member": "0"}
    with progress_bars() as bars, bound(run="digits", stage="train"):
        shown = _Shown("sio, seed 0", WatchedRun(100, 128, labels), bars)
        for row in (
            Row(10, Spent(10, 1.0, 0.25, 0.0)),
            Row(10, Spent(10, 1.0, 0.25, 2.0), [{"step": 10, "loss": 3.0, "val_accuracy": 0.5}]),
            Row(15, Spent(15, 1.5, 0.5, 2.0)),
            # Its worker was lost, and another goes on from step 10.
            Row(12, Spent(2, 0.5, 0.125, 0.0)),
            Row(20, Spent(10, 2.0, 0.25, 1.0), [{"step": 20, "loss": 2.0, "val_accuracy": 0.75}]),
        ):
            shown.update(row)
    told = {
        name: recorded.of(name, **labels, run="digits", stage="train")
        for name in METRICS
        if "_train_" in name and "restarts" not in name
    }
    assert told == {
        "sio_train_steps_total": 25,
        "sio_train_images_total": 25 * 128,
        "sio_train_step_seconds_total": 3.5,
        "sio_train_feed_wait_seconds_total": 0.75,
        "sio_train_report_seconds_total": 3.0,
        "sio_train_loss": 2.0,
        "sio_train_val_accuracy_ratio": 0.75,
    }
    assert recorded.of("sio_progress_ratio", part="sio, seed 0") == 0.2


def test_a_search_tells_states_scores_and_seconds(recorded) -> None:
    config = tuned("num_trials=4", "seeds=[1,2]", "confirm_seeds=[]")
    search, results = played(config)
    results[1] = replace(results[1], train_s=2.0, judge_s=0.5)
    results[2] = TrialResult("failed", train_s=1.0, error="out of memory")
    shown = Watch(config.tune, search.num_trials)
    for index in (0, 1, 2):
        shown.start(search.trials[index])
        if index == 1:
            shown.validated(1, {"step": 5, "near_auroc": 0.625, "val_accuracy": 0.25, "near_auroc_std": 0.5})
        shown.end(search.trials[index], results[index], search.num_trials)
    shown.start(search.trials[3])
    states = {state: recorded.of("sio_trials", state=state) for state in ("running", "done", "stopped", "failed")}
    assert states == {"running": 1, "done": 2, "stopped": 0, "failed": 1}
    near = {index: results[index].value("near_auroc") for index in (0, 1)}
    scores = {
        of: recorded.of("sio_trial_score_ratio", metric="near_auroc", of=of) for of in ("newest", "baseline", "best")
    }
    assert scores == {"newest": 0.625, "baseline": near[0], "best": max(near.values())}
    seconds = {part: recorded.of("sio_trial_seconds_total", part=part) for part in ("train", "judge")}
    assert seconds == {"train": 3.0 + results[0].train_s, "judge": 0.5 + results[0].judge_s}
    assert recorded.of("sio_progress_ratio", part="trials") == 3 / search.num_trials
