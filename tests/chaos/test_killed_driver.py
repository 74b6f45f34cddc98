"""The driver is killed, and stopped by Ctrl-C, in the middle of its work; run again it finishes, nothing different."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from leftovers import assert_gone, descendants, temporary_files

from sio_ray.cli import run_stages
from sio_ray.config import load_config, with_overrides
from sio_ray.generate.notes import NOTES_FOLDER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def start(config_file):
    """Begin to generate in a process, and a Ray cluster, of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sio_ray.cli", "generate", str(config_file)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


def wait_for_shards(folder: Path, count, process):
    deadline_s = time.monotonic() + 300  # a busy machine takes minutes to start Ray and actors
    while len(list(folder.glob("part-*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        if time.monotonic() > deadline_s:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"no {count} shards in {folder}: {process.communicate()[1]}")
        time.sleep(0.02)


def shards(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}


def test_a_kill_and_a_ctrl_c_cost_nothing(ray_cluster, gaussian_generator, tmp_path):
    images = tmp_path / "set"
    config = with_overrides(
        load_config("digits"),
        {
            "output_dir": str(tmp_path / "runs"),
            "generate.generator": str(gaussian_generator),
            "generate.output": str(images),
            # Enough work that a kill cannot come too late: one actor, 18 shards, about half a second each.
            "generate.num_images": 900,
            "generate.images_per_shard": 50,
            "generate.sampler_batch_size": 25,
            "generate.num_inference_steps": 300,
            "generate.num_actors": 1,
        },
    )
    config_file = tmp_path / "config.yaml"
    config_file.write_text(json.dumps(config.model_dump(mode="json")))

    survivors: dict[str, int] = {}
    for kill in (signal.SIGKILL, signal.SIGINT):
        driver = start(config_file)
        # An actor outlives its driver by a moment, and may end the two shards that it had been given.
        wait_for_shards(images, len(survivors) + 4, driver)
        processes = descendants(driver.pid)
        if kill == signal.SIGINT:
            driver.send_signal(kill)
            _, err = driver.communicate(timeout=60)
            assert driver.returncode == 130
            assert err.splitlines()[-1] == "interrupted; run the same command again to continue where it stopped."
        else:
            os.killpg(driver.pid, kill)
            driver.communicate()
        assert_gone(processes)
        assert not (images / "manifest.json").exists()
        now = shards(images)
        assert {name: now[name] for name in survivors} == survivors, "a finished shard was drawn again"
        survivors = now
    assert len(survivors) < 18

    four_actors = with_overrides(config, {"generate.num_actors": 4})
    finished = run_stages(four_actors, ["generate"])["generate"]
    assert finished["reused"] is False
    after = shards(images)
    assert {name: after[name] for name in survivors} == survivors, "a finished shard was drawn again"
    assert sorted(path.name for path in images.iterdir()) == sorted([*after, "manifest.json", "plan.json"])
    assert not (images / NOTES_FOLDER).exists()
    assert temporary_files(tmp_path) == []

    elsewhere = with_overrides(config, {"generate.output": str(tmp_path / "undisturbed")})
    undisturbed = run_stages(elsewhere, ["generate"])["generate"]
    assert finished["result"]["content_id"] == undisturbed["result"]["content_id"]
