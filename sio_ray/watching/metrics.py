"""Every metric, and how one is recorded: through `ray.util.metrics`, so that Ray exports it as `ray_NAME`.

Only the driver records. What an actor or a worker measures comes to it with their results, so no hot loop pays for a
metric, none is lost with the process of an actor, and all have the same labels. Seconds are counters rather than
histograms, as of a histogram Ray exports buckets alone, with a sum put together from their middles.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

from sio_ray.watching.context import current

#: The labels of every metric, by the context: the experiment's name, and the stage.
RUN_TAGS = ("run", "stage")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        kind: a counter grows, and starts anew with the driver; a gauge says how it is now.
        unit: of its value.
        description: in a sentence.
        tags: its labels beside `run` and `stage`; each has few values.
    """

    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    tags: tuple[str, ...] = ()


_OF_RUN = ("arm", "seed", "member")

#: Name to metric. Counters end with `_total`, as Prometheus wants it.
METRICS: dict[str, Metric] = {
    "sio_progress_ratio": Metric(
        "gauge", "ratio", "Share that is done of each count that the driver's terminal has a bar for.", ("part",)
    ),
    # Of the pool of actors that draws images, or runs networks over them.
    "sio_images_total": Metric(
        "counter", "images", "Images drawn, or passed through a network, by each place of the pool.", ("actor",)
    ),
    "sio_shards_total": Metric(
        "counter",
        "shards",
        "Shards that were done; failed (each attempt); retried (queued again after a failure or the loss of an actor); "
        "set_aside (failed as often as they may).",
        ("outcome",),
    ),
    "sio_shard_seconds_total": Metric(
        "counter",
        "seconds",
        "Seconds of all actors together in shards that were done: sample, encode (CPU time), write of generate; read, "
        "network, write of evaluate.",
        ("part",),
    ),
    "sio_actors": Metric("gauge", "actors", "Actors of the pool at work."),
    "sio_actor_deaths_total": Metric(
        "counter",
        "actors",
        "Actors that died, their node with them or not, or were ended as they hung or did not open.",
    ),
    # Of training runs, and of the generator's, whose arm is `generator`; measured by the first worker of each.
    "sio_train_steps_total": Metric("counter", "steps", "Optimiser steps done.", _OF_RUN),
    "sio_train_images_total": Metric("counter", "images", "Images trained on, over all workers.", _OF_RUN),
    "sio_train_step_seconds_total": Metric(
        "counter", "seconds", "Seconds of optimiser steps, those of waiting for the feed among them.", _OF_RUN
    ),
    "sio_train_feed_wait_seconds_total": Metric(
        "counter", "seconds", "Seconds of optimiser steps that went into making, or waiting for, the batch.", _OF_RUN
    ),
    "sio_train_report_seconds_total": Metric(
        "counter", "seconds", "Seconds between steps: validation, checkpoint, waiting for other workers.", _OF_RUN
    ),
    "sio_train_restarts_total": Metric(
        "counter", "restarts", "Times that a run went on from its last checkpoint, as workers were lost.", _OF_RUN
    ),
    "sio_train_loss": Metric("gauge", "nats", "Training loss at the last report.", _OF_RUN),
    "sio_train_val_accuracy_ratio": Metric("gauge", "ratio", "ID validation accuracy at the last report.", _OF_RUN),
    # Of a search.
    "sio_trials": Metric(
        "gauge", "trials", "Trials that run, or ended so: done, stopped, diverged, failed.", ("state",)
    ),
    "sio_trial_seconds_total": Metric(
        "counter", "seconds", "Seconds of trials that have ended, in training and in judging.", ("part",)
    ),
    "sio_trial_score_ratio": Metric(
        "gauge",
        "ratio",
        "AUROC or ID accuracy on validation sets: of the newest validation of any trial, of the baseline, and of the "
        "best trial so far.",
        ("metric", "of"),
    ),
}

_made: dict[str, Any] = {}


def count(name: str, amount: float = 1, **tags: Any) -> None:
    """Add to a counter; see `_record`."""
    if amount > 0:
        _record(name, "counter", amount, tags)


def show(name: str, value: float, **tags: Any) -> None:
    """Set a gauge; see `_record`."""
    _record(name, "gauge", value, tags)


def _record(name: str, kind: str, value: float, tags: dict[str, Any]) -> None:
    """Record a value; nothing where Ray does not run in this process, as before it is connected to.

    Through a `ray://` client nothing is exported either: Ray exports metrics of the processes of a cluster alone.

    Args:
        name: of the metric.
        kind: of it.
        value: to record.
        tags: its labels; those of them that are bound by the context, as `run` and `stage` are, need not be given.
    """
    metric = METRICS[name]
    assert metric.kind == kind, f"{name} is a {metric.kind}"
    assert set(tags) <= {*RUN_TAGS, *metric.tags}, f"{name} has no label {sorted(set(tags) - set(metric.tags))}"
    ray = sys.modules.get("ray")
    # Of a client `is_initialized` would ask the cluster each time.
    if ray is None or ray.util.client.ray.is_connected() or not ray.is_initialized():
        return
    labels = {**current().labels, **tags}
    values = {tag: str(labels.get(tag, "")) for tag in (*RUN_TAGS, *metric.tags)}
    made = _made.get(name) or _made.setdefault(name, _make(name, metric))
    if kind == "counter":
        made.inc(value, values)
    else:
        made.set(value, values)


def _make(name: str, metric: Metric) -> Any:
    from ray.util import metrics  # the driver has loaded Ray

    make = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return make(name, description=metric.description, tag_keys=(*RUN_TAGS, *metric.tags))
