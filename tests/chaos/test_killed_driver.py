"""The driver is killed in the middle of its work; the same command finishes it, and nothing is lost or different."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sio_ray.cli import run_stages
from sio_ray.config import load_config
from sio_ray.stages.layout import generate_place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def start(overrides):
    """Begin to generate in a process, and a Ray cluster, of its own."""
    command = [sys.executable, "-m", "sio_ray.cli", "generate", "digits", *overrides, "generate.num_actors=1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
        # A shell that runs the tests in the background has them, and their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_shards(folder: Path, count, process):
    deadline_s = time.monotonic() + 120
    while len(list(folder.glob("part-*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline_s, f"no {count} shards in {folder}"
        time.sleep(0.02)


def test_a_killed_and_an_interrupted_driver_cost_nothing(finished):
    overrides, _, _ = finished
    # Enough work that the interruption cannot come too late: one actor, 20 shards, about 0.4 s each.
    overrides = [*overrides, "generate.base_seed=5", "generate.synthetic_ratio=1", "generate.num_inference_steps=30"]
    config = load_config("digits", [*overrides, "generate.num_actors=2"])
    folder = generate_place(config).folder
    images = folder / "images"

    killed = start(overrides)
    wait_for_shards(images, 2, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    survivors = {path.name: path.stat().st_mtime_ns for path in images.glob("part-*.parquet")}
    assert not (images / "manifest.json").exists()

    interrupted = start(overrides)
    wait_for_shards(images, len(survivors) + 2, interrupted)
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert err.splitlines()[-1] == "interrupted; run the same command again to continue where it stopped."

    finished_at_last = run_stages(config, ["generate"])["generate"]
    assert finished_at_last["reused"] is False
    after = {path.name: path.stat().st_mtime_ns for path in images.glob("part-*.parquet")}
    assert {name: after[name] for name in survivors} == survivors, "a finished shard was drawn again"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(
        [*after, "manifest.json", "plan.json", "stage.json"]
    )

    shutil.rmtree(folder)
    undisturbed = run_stages(config, ["generate"])["generate"]
    assert finished_at_last["result"] == undisturbed["result"]
