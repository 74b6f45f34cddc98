"""What Ray exports of a run, and what the run's folder tells of it."""

import re
import time
import urllib.request
from collections import Counter

from sio_ray.cli import run_stages
from sio_ray.config import load_config
from sio_ray.stages.layout import train_runs
from sio_ray.watching.events import read_events

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


def test_ray_exports_the_metrics_of_a_generation(ray_cluster, gaussian_generator, tmp_path):
    config = load_config(
        "digits",
        [
            *("name=watched", f"output_dir={tmp_path}", f"generate.generator={gaussian_generator}"),
            *("generate.num_images=100", "generate.images_per_shard=30", "generate.num_actors=1"),
            *("generate.sampler_batch_size=8", "generate.num_inference_steps=3"),
        ],
    )
    run_stages(config, ["generate"])
    stage = ("stage", "generate")
    images = ("sio_images_total", ("actor", "0"), stage)
    deadline_s = time.monotonic() + _PATIENCE_S
    while (found := exported(ray_cluster, "watched"))[0].get(images) != 100:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.5)
    values, types = found
    assert values["sio_shards_total", ("outcome", "done"), stage] == 4
    assert values["sio_progress_ratio", ("part", "drawing images"), stage] == 1
    assert values["sio_actors", stage] == 0
    parts = ("sample", "encode", "write")
    assert all(values["sio_shard_seconds_total", ("part", part), stage] > 0 for part in parts)
    assert {"sio_images_total counter", "sio_actors gauge"} <= types
    told = Counter((event["event"], event.get("shard")) for event in read_events(config.run_dir))
    once = [("stage_begun", None), ("actor_opened", None), *(("shard_done", n) for n in range(4)), ("stage_done", None)]
    assert told == dict.fromkeys(once, 1)


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
