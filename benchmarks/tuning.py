"""What a trial of a search costs beside its training, against a Ray Train run in each trial and against plain commands.

python benchmarks/tuning.py --json
python benchmarks/tuning.py --trials 4 --only in_process           # quick

The digits preset with its recipe, one core and one validation a trial, two trials side by side.

- in_process: `sio-ray tune` as it is: trials of one worker train in processes that go from trial to trial.
- nested: the same search, but each trial starts a Ray Train run of one worker.
- commands: `sio-ray train` for each trial, two at a time, as one would write it in a shell. It judges nothing.
- memory: what a trial's process holds for itself while one and while four trials run at once, and what image sets take
  of Ray's object store in both cases.

`overhead_s` is the median over trials of the time from start to end less optimiser steps and judging; `first_s` is that
of the first trial, whose process starts for it. `trials_per_hour` is over the whole command, the start of Ray included.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from ray._private.internal_api import memory_summary

from sio_ray.cli import run_stages
from sio_ray.config import Config, load_config
from sio_ray.provenance import machine, versions

#: Sets that are made in seconds; how good the pictures are is no matter here.
SETS = ("fit_generator.kind=gaussian", "generate.num_inference_steps=4")
PARTS = ("in_process", "nested", "commands", "memory")
SIDE_BY_SIDE = 2


def searched(folder: Path, args: argparse.Namespace, seed: int, *more: str) -> Config:
    """The config of a search over the weight; with another seed its trials are others, so none is there already."""
    space = folder / "space.py"
    space.write_text('SPACE = {"train.real_weight": ("uniform", 0.5, 0.95)}\n')
    options = {
        "space": space,
        "num_trials": args.trials,
        "num_steps": args.steps,
        "num_validations": 1,
        "confirm_seeds": "[]",
        "seeds": [seed],
        "concurrent_trials": SIDE_BY_SIDE,
    }
    overrides = [f"tune.{name}={value}" for name, value in options.items()]
    return load_config("digits", [*SETS, f"output_dir={folder}", *overrides, *more])


def search(config: Config) -> dict[str, Any]:
    """One search in this process; seconds per trial, and trials per hour."""
    from sio_ray.tune.stage import tune

    start_s = time.monotonic()
    result = tune(config).result
    wall_s = time.monotonic() - start_s
    overheads = result["cost"]["overheads_s"]
    return {
        "overhead_s": round(statistics.median(overheads), 3),
        "first_s": overheads[0],
        "train_s": round(statistics.median(row["train_s"] for row in result["trials"]), 3),
        "judge_s": round(statistics.median(row["judge_s"] for row in result["trials"]), 3),
        "wall_s": round(wall_s, 1),
        "trials_per_hour": round(3600 * len(result["trials"]) / wall_s),
    }


def in_process(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The search as it is."""
    return search(searched(folder, args, 1))


def nested(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The search with a Ray Train run of one worker in every trial."""
    from sio_ray.training.ray_train import Workers
    from sio_ray.tune import runner
    from sio_ray.tune.process import run_under_ray_train
    from sio_ray.tune.shelf import pick_up

    def run_trial(params: dict[str, Any], shelf: Any, cpus: int, **others: Any) -> None:
        run_under_ray_train(pick_up(shelf, params["key"]), params["key"], cpus, Workers(1, cpus, 0))

    runner.run_trial = run_trial
    runner.trial_resources = lambda config, sets: {"CPU": 0, "memory": 1}
    return search(searched(folder, args, 2))


def commands(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A process for every trial, two at a time."""
    sets = [*SETS, f"output_dir={folder}", f"train.num_steps={args.steps}", "train.arms=[sio]", "train.seeds=[0]"]
    numbers = range(args.trials)

    def command(number: int) -> float:
        weight = f"train.real_weight={0.5 + 0.4 * number / args.trials:.3f}"
        start_s = time.monotonic()
        run = [sys.executable, "-m", "sio_ray.cli", "train", "digits", *sets, weight, "cluster.num_cpus=1"]
        subprocess.run(run, check=True, capture_output=True)
        return time.monotonic() - start_s

    start_s = time.monotonic()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        seconds = list(pool.map(command, numbers))
    wall_s = time.monotonic() - start_s
    return {
        "command_s": round(statistics.median(seconds), 2),
        "wall_s": round(wall_s, 1),
        "trials_per_hour": round(3600 * len(numbers) / wall_s),
    }


def memory(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Megabytes of a trial's process, and of the object store, with one and with four trials at once."""
    from sio_ray.cluster import connect

    found = {}
    for count in (1, 4):
        config = searched(folder, args, 2 + count, "cluster.num_cpus=4", f"tune.concurrent_trials={count}")
        connect(config.cluster)
        with Sampled() as sampled:
            search(config)
        found[str(count)] = {"unique_mb": round(sampled.unique_mb, 1), "store_mb": round(sampled.store_mb, 1)}
    return found


class Sampled:
    """Samples the processes of trials and the object store in a thread of its own."""

    def __init__(self) -> None:
        self.unique_mb = self.store_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampled:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            used = re.search(r"Plasma memory usage (\d+) MiB", memory_summary(stats_only=True))
            self.store_mb = max(self.store_mb, float(used[1]) if used else 0.0)
            for process in psutil.Process().children(recursive=True):
                try:
                    if "ImplicitFunc" in " ".join(process.cmdline()):
                        self.unique_mb = max(self.unique_mb, process.memory_full_info().uss / 1e6)
                except psutil.Error:
                    continue


def measure_in_own_process(part: str, folder: Path, args: argparse.Namespace) -> Any:
    """Run one part by itself: Ray and threads of one would disturb the next."""
    command = [sys.executable, __file__, "--only", part, "--json", "--folder", str(folder)]
    command += ["--trials", str(args.trials), "--steps", str(args.steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])[part]  # Ray Train prints its results before


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="beside the baseline")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of a trial")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help="of sets that are there already")
    parser.add_argument("--json", action="store_true", help="on one line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder
        if folder is None:
            folder = Path(temporary)
            run_stages(searched(folder, args, 0), ["prepare", "fit-generator", "generate"])
            figures = {part: measure_in_own_process(part, folder, args) for part in args.only}
        else:
            figures = {part: globals()[part](folder, args) for part in args.only}
    report = {"machine": machine(), "versions": versions(), **figures}
    if {"in_process", "nested"} <= figures.keys():
        report["nested_over_in_process"] = round(
            figures["nested"]["overhead_s"] / figures["in_process"]["overhead_s"], 1
        )
    sys.stdout.write(json.dumps(report, indent=None if args.json else 1) + "\n")


if __name__ == "__main__":
    main()
