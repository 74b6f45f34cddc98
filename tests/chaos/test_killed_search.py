"""The driver of a search is killed twice; run again it goes on, and finds what an undisturbed search finds."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from leftovers import assert_gone, assert_no_actor_at_work, descendants, temporary_files

from sio_ray.config import load_config
from sio_ray.tune.stage import tune
from tests.tune.searched import make_sets, without_seconds, write_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: A search whose every decision reads earlier results: what it proposes, and when it stops.
LEARNS = (
    "tune.algorithm=optuna",
    "tune.stopping=asha",
    "tune.num_validations=3",
    "tune.lookahead=2",
    "tune.num_trials=7",
    "tune.num_steps=30",
    "tune.confirm_seeds=[5]",
)


def start(config_file):
    """Begin to search in a process, and a Ray cluster, of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sio_ray.cli", "tune", str(config_file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


def results(config):
    return {path: path.stat().st_mtime_ns for path in (config.run_dir / "trials").glob("*/result.json")}


def test_two_kills_of_the_driver_change_nothing(ray_cluster, tmp_path):
    space = write_space(tmp_path, train__real_weight=("uniform", 0.5, 0.95))
    undisturbed = tune(load_config("digits", [*make_sets(tmp_path / "undisturbed"), *LEARNS, space]))

    config = load_config("digits", [*make_sets(tmp_path / "disturbed"), *LEARNS, space])
    config_file = tmp_path / "config.yaml"
    config_file.write_text(json.dumps(config.model_dump(mode="json")))
    kept: dict = {}
    for count in (2, 4):
        driver = start(config_file)
        deadline_s = time.monotonic() + 300
        while len(results(config)) < count:
            assert driver.poll() is None, driver.stderr.read()
            if time.monotonic() > deadline_s:
                os.killpg(driver.pid, signal.SIGKILL)
                pytest.fail(f"no {count} results: {driver.communicate()[1]}")
            time.sleep(0.02)
        processes = descendants(driver.pid)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        assert_gone(processes)
        now = results(config)
        assert {path: now[path] for path in kept} == kept, "a finished trial was trained again"
        kept = now
    assert len(kept) < len(undisturbed.result["trials"])

    finished = tune(config)
    assert finished.reused is False
    after = results(config)
    assert {path: after[path] for path in kept} == kept
    assert without_seconds(finished.result) == without_seconds(undisturbed.result)
    assert {path.parent.name for path in after} == {
        path.parent.name for path in results(load_config(str(undisturbed.output / "best.yaml")))
    }
    assert_no_actor_at_work("ImplicitFunc")
    assert temporary_files(config.run_dir) == []
