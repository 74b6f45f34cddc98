"""A cluster whose nodes do not share a disk is refused before work starts; one that shares all that is used is not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sio_ray.config import load_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MAY_MOUNT = subprocess.run(
    ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
)


@pytest.mark.skipif(MAY_MOUNT.returncode != 0, reason="this user may not mount, which makes a node with its own disk")
def test_a_disk_that_a_node_does_not_share_is_found_before_work_starts(gaussian_generator, tmp_path):
    hidden = tmp_path / "hidden"
    for folder in (hidden, tmp_path / "shared"):
        folder.mkdir()

    def write_config(name, output):
        section = {"num_images": 40, "images_per_shard": 20, "num_inference_steps": 2, "sampler_batch_size": 20}
        section |= {"generator": str(gaussian_generator), "output": str(output)}
        config = load_config("digits", [f"output_dir={tmp_path / 'shared'}"]).model_dump(mode="json")
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps({**config, "generate": config["generate"] | section}))
        return str(path)

    configs = [write_config("one", hidden / "set"), write_config("two", tmp_path / "shared" / "set")]
    # A process of its own, as the tests' own cluster is in this one.
    script = str(Path(__file__).with_name("unshared_node.py"))
    command = [sys.executable, script, str(hidden), str(tmp_path / "result"), *configs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    refused, content_id = json.loads((tmp_path / "result").read_text())
    assert re.fullmatch(
        rf"generate\.output must be a folder that all nodes of the Ray cluster share, got '{hidden}/set', and what the "
        r"driver's node has there is not seen on 1 of 1 other nodes \([\d.]+\); give one on .*",
        refused,
    )
    assert [path.name for path in hidden.rglob("*") if path.is_file()] == ["plan.json"]
    manifest = json.loads((tmp_path / "shared" / "set" / "manifest.json").read_text())
    assert len(content_id) > 0
    assert manifest["num_images"] == 40
