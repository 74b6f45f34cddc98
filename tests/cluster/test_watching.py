"""What Ray exports of a run, and what the run's folder tells of it."""

import re
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass

from ray import cloudpickle

from sio_ray.errors import GenerationError
from sio_ray.generate.actors import DRAWING
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize
from sio_ray.pool.watch import PoolWatch
from sio_ray.progress import count_progress
from sio_ray.stages.layout import train_runs
from sio_ray.watching.context import bound_to_run
from sio_ray.watching.events import read_events

# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: Ray's processes report their metrics every ten seconds.
_PATIENCE_S = 60


def exported(ray, run):
    """Metric and its own labels to value, of all series of a run that the metrics port of this node shows now."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"^ray_(sio_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if tags.get("run") == run:
            own = {tag: tags[tag] for tag in ("stage", "actor", "outcome", "part") if tag in tags}
            found[name, *sorted(own.items())] = float(value)
    return found, set(re.findall(r"^# TYPE ray_(sio_\w+ \w+)$", text, re.MULTILINE))


@dataclass(frozen=True)
class Drawn:
    digest: str = ""


class Drawing:
    """Draws nothing; the first time that shard 2 is asked for, it fails."""

    def __init__(self):
        self.failed = False

    def do(self, unit_id):
        if unit_id == 2 and not self.failed:
            self.failed = True
            raise GenerationError("no picture")
        return Drawn()


def test_ray_exports_what_a_pool_did_and_the_runs_folder_tells_it(ray_cluster, tmp_path):
    with (
        bound_to_run(tmp_path, on_stderr=False, run="watched", stage="generate"),
        count_progress("drawing images", 100, "images") as progress,
        PoolWatch(
            progress,
            images=lambda drawn: 25,
            seconds=lambda drawn: {"sample": 2.0, "encode": 0.5},
            labels=lambda unit_id: {"shard": unit_id},
        ) as watch,
    ):
        pool = Pool(DRAWING, Drawing, PoolSize(1, 1, 0), Patience(), on_news=watch.hear)
        pool.run(range(4))
    stage = ("stage", "generate")
    images = ("sio_images_total", ("actor", "0"), stage)
    deadline_s = time.monotonic() + _PATIENCE_S
    while (found := exported(ray_cluster, "watched"))[0].get(images) != 100:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.5)
    values, types = found
    outcomes = {"done": 4, "failed": 1, "retried": 1}
    assert {name: values["sio_shards_total", ("outcome", name), stage] for name in outcomes} == outcomes
    seconds = {"sample": 8.0, "encode": 2.0}
    assert {part: values["sio_shard_seconds_total", ("part", part), stage] for part in seconds} == seconds
    assert values["sio_progress_ratio", ("part", "drawing images"), stage] == 1
    assert values["sio_actors", stage] == 0
    assert {"sio_images_total counter", "sio_actors gauge"} <= types
    told = Counter((event["event"], event.get("shard")) for event in read_events(tmp_path))
    of_shards = [*(("shard_done", number) for number in range(4)), ("shard_failed", 2), ("shard_retried", 2)]
    assert told == dict.fromkeys([("actor_opened", None), *of_shards], 1)


def test_the_folder_of_a_run_tells_of_every_stage_and_every_report(finished):
    _, config, outcomes = finished
    events = list(read_events(config.run_dir))
    ends = [
        number for number, event in enumerate(events) if (event["event"], event["stage"]) == ("stage_done", "report")
    ]
    events = events[: ends[0] + 1]  # what other tests did to this run came later
    for name in ("stage_begun", "stage_done"):
        told = Counter(event["stage"] for event in events if event["event"] == name)
        assert told == dict.fromkeys(outcomes, 1) | {"train": 2}
    reported = [event for event in events if event["event"] == "reported"]
    runs = [(run.arm, str(run.seed), str(run.member), step) for run in train_runs(config) for step in (10, 20)]
    keys = ("arm", "seed", "member", "step")
    of_training = [tuple(event[key] for key in keys) for event in reported if event["stage"] == "train"]
    assert sorted(of_training) == sorted(runs)
    assert [event["step"] for event in reported if event["stage"] == "fit-generator"] == [10, 20, 30]
    assert all({"loss", "message"} & set(event) == {"loss"} for event in reported)
    shards = Counter(event["stage"] for event in events if event["event"] == "shard_done")
    assert set(shards) == {"generate", "evaluate"}
