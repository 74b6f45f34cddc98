"""Speed of training, side by side on one machine in one run: ours against what one would write instead.

python benchmarks/training.py --json
python benchmarks/training.py --only feed step

- feed: mixed batches as float tensors, 50,000 real and 50,000 synthetic pictures of 32 px at a real share of 0.8,
  against a `Dataset` of PIL transforms in a `DataLoader` of two workers with a batch sampler over two sources.
- step: ResNet-18 at 32 px, batch 128: our whole step (batch, augmentation, weights, schedule, optimiser) against the
  bare model's forward, backward and optimiser on a batch that is there already. Steps of both sides alternate.
- start_up: seconds from `sio-ray train digits` to the first step, and where they go.
- workers: steps per second of one worker and of two, one core each, the same global batch.
- gpu: a ResNet-18 at 32 px in float32 and in bf16 with compile, against a plain float32 `DataLoader` loop, and how much
  of a step is waiting for the feed; where there is one.

Several parts run one after the other, each in a process of its own: threads, Ray and memory of one would disturb the
next. A part that fails is named, and the others are measured all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from feed import measure_feed

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import Feed, MemoryFeed, Sources
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.trainee import build_trainee
from sio_ray.config import TrainConfig
from sio_ray.imageset import ImageArrays
from sio_ray.provenance import machine, versions

CLASSES = tuple("0123456789")
ARCHITECTURE = Architecture(
    network="resnet18_32px", class_names=CLASSES, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3
)
BATCH = 128


def pictures(count: int) -> ImageArrays:
    """Random pictures of 32 px."""
    rng = np.random.default_rng(count)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    return ImageArrays(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), labels, np.arange(count))


class OneBatch:
    """A feed that has the batch of every step already: a network that it feeds never waits."""

    def __init__(self, feed: Feed) -> None:
        self.composition, self.wait_s, self._batch = feed.composition, 0.0, feed.batch(0)

    def batch(self, step: int) -> MixedBatch:
        """The same one, whatever the step."""
        return self._batch

    def close(self) -> None:
        """There is nothing to give back."""


def our_step(
    device: torch.device, num_images: int, *, never_waits: bool = False, **changes: Any
) -> tuple[Callable[[int], Any], Feed]:
    """The step of our trainee, and its feed."""
    config = TrainConfig(num_steps=1000, global_batch_size=BATCH, **changes)
    feed: Feed = MemoryFeed(
        Sources(pictures(num_images), pictures(num_images + 1)),
        global_batch_size=BATCH,
        real_batch_share=0.8,
        augmentation=Augmentation.of(config),
        seed=0,
        device=device,
    )
    feed = OneBatch(feed) if never_waits else feed
    return build_trainee(config, ARCHITECTURE, feed, pictures(8), arm="sio", seed=0, device=device).step, feed


def bare_step(device: torch.device) -> Callable[[int], Any]:
    """Forward, backward and optimiser, on a batch that is there already."""
    classifier = Classifier(ARCHITECTURE).to(device).train()
    if device.type == "cuda":
        classifier.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    arrays = pictures(BATCH)
    images = torch.from_numpy(arrays.images).to(device).float() / 255
    labels = torch.from_numpy(arrays.labels).to(device)

    def step(number: int) -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(classifier(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def measure_step(turns: int = 40) -> dict[str, Any]:
    """How much longer our step takes than the bare model's."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, feed = our_step(device, 5000)
    sides = {"ours": ours, "bare": bare_step(device)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(turns + 1):
        for name, step in sides.items():
            start_s = time.perf_counter()
            step(number).item()
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start_s)
        if not number:
            warm_s = feed.wait_s
    ratios = sorted(ours / bare for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True))
    return {
        **{f"{name}_s": round(statistics.median(of_side), 4) for name, of_side in seconds.items()},
        "overhead_percent": round(100 * (statistics.median(ratios) - 1), 2),
        "overhead_of_medians_percent": round(
            100 * (statistics.median(seconds["ours"]) / statistics.median(seconds["bare"]) - 1), 2
        ),
        "overheads_of_quartiles_percent": [round(100 * (ratios[len(ratios) * k // 4] - 1), 2) for k in (1, 3)],
        "feed_percent": round(100 * (feed.wait_s - warm_s) / sum(seconds["ours"]), 2),
    }


#: Runs in a process of its own; prints what it took on the last line.
_START_UP = """
import time
began = time.perf_counter()
import json, sys
marks = {}
def mark(name):
    marks[name] = round(time.perf_counter() - began - sum(marks.values()), 2)
from sio_ray.config import load_config
from sio_ray.stages import train as stage
import sio_ray.stages.prepare as prepare
mark("imports_s")
config = load_config("digits", sys.argv[1:])
prepare.prepare(config)
began += time.perf_counter() - began - sum(marks.values())
def timed(owner, name, label):
    inner = getattr(owner, name)
    def call(*args, **kwargs):
        result = inner(*args, **kwargs)
        mark(label)
        return result
    setattr(owner, name, call)
timed(stage, "connect", "ray_s")
timed(stage, "pixel_counts_of", "pixel_statistics_s")
timed(stage, "share_sources", "decode_and_share_s")
inner = stage.run_on_workers
def run_on_workers(loop, loop_config, **options):
    import ray, threading
    def watch():
        while not any(step for step, _ in ray.get(loop_config["board"].read.remote()).values()):
            time.sleep(0.02)
        mark("workers_to_first_step_s")
        print(json.dumps({**marks, "total_s": round(sum(marks.values()), 2)}), flush=True)
    threading.Thread(target=watch, daemon=True).start()
    return inner(loop, loop_config, **options)
stage.run_on_workers = run_on_workers
stage.train(config)
"""


def measure_start_up() -> dict[str, float]:
    """Seconds from the command to the first step."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"output_dir={folder}", "train.arms=[baseline]", "train.seeds=[0]", "train.num_steps=50"]
        command = [sys.executable, "-c", _START_UP, *overrides]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ, timeout=300)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _worker_loop(config: dict[str, Any]) -> None:
    """Runs in every Ray Train worker: a few steps of ResNet-18 of width 16, timed after two that warm up."""
    import ray.train
    import ray.train.torch

    from sio_ray.training.ray_train import start_worker

    device = start_worker(1)
    context = ray.train.get_context()
    place = {"seed": 0, "rank": context.get_world_rank(), "world_size": context.get_world_size(), "device": device}
    section = TrainConfig(num_steps=1000, global_batch_size=BATCH, width=16)
    feed = MemoryFeed(
        Sources(pictures(2000), pictures(2001)),
        global_batch_size=BATCH,
        real_batch_share=0.8,
        augmentation=Augmentation.of(section),
        **place,
    )
    architecture = ARCHITECTURE.model_copy(update={"width": 16})
    trainee = build_trainee(
        section, architecture, feed, pictures(8), arm="sio", wrap=ray.train.torch.prepare_model, **place
    )
    for number in range(config["num_steps"] + 2):
        if number == 2:
            start_s = time.perf_counter()
        trainee.step(number).item()
    steps_per_s = config["num_steps"] / (time.perf_counter() - start_s)
    if place["rank"] == 0:
        Path(config["result"]).write_text(str(steps_per_s))


def measure_workers(num_steps: int = 12) -> dict[str, Any]:
    """One worker against two, of one core each."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from sio_ray.cluster import connect
    from sio_ray.config import ClusterConfig

    connect(ClusterConfig())
    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for num_workers in (1, 2):
            result = Path(folder, f"steps-per-s-of-{num_workers}")
            trainer = TorchTrainer(
                _worker_loop,
                train_loop_config={"num_steps": num_steps, "result": str(result)},
                scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
                run_config=RunConfig(name=str(num_workers), storage_path=folder),
            )
            trainer.fit()
            speeds[num_workers] = float(result.read_text())
    return {
        "steps_per_s_of_1": round(speeds[1], 3),
        "steps_per_s_of_2": round(speeds[2], 3),
        "scaling": round(speeds[2] / speeds[1], 2),
    }


def measure_on_gpu() -> Any:
    """See `training_gpu`; or why not."""
    if not torch.cuda.is_available():
        return "no GPU on this machine"
    from training_gpu import measure_gpu

    return measure_gpu(our_step, Classifier(ARCHITECTURE), pictures)


PARTS: dict[str, Callable[[], Any]] = {
    "feed": measure_feed,
    "step": measure_step,
    "start_up": measure_start_up,
    "workers": measure_workers,
    "gpu": measure_on_gpu,
}


def measure_here(name: str) -> Any:
    """One part in this process."""
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    return PARTS[name]()


def measure_apart(name: str) -> Any:
    """One part in a process of its own; what it says to people comes through."""
    command = [sys.executable, __file__, "--only", name, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout)[name] if done.returncode == 0 else {"failed_with": done.returncode}


def main() -> None:
    """Measure what is asked for and print it; the exit status is 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "versions": versions()}
    for name in arguments.only:
        result[name] = measure_here(name) if len(arguments.only) == 1 else measure_apart(name)
        if not arguments.json:
            print(f"{name}: {json.dumps(result[name], indent=1)}", flush=True)
    if arguments.json:
        print(json.dumps(result, indent=1))
    failed = [name for name in arguments.only if isinstance(result[name], dict) and "failed_with" in result[name]]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
