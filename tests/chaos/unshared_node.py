"""Generates on a cluster with a node that has a disk of its own at one path; run by `test_unshared_node.py`.

python unshared_node.py HIDDEN RESULT.json CONFIG.json...
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from sio_ray.cluster import connect
from sio_ray.config import load_config
from sio_ray.errors import SioRayError
from sio_ray.stages.generate import generate


def add_node_that_does_not_share(cluster: Cluster, hidden: str) -> subprocess.Popen[bytes]:
    """Start a node in a mount namespace of its own, with an empty disk over the folder `hidden`."""
    ray_command = Path(sys.executable).with_name("ray")
    script = (
        f"mount -t tmpfs tmpfs {shlex.quote(hidden)} && "
        f"exec {ray_command} start --address={cluster.address} --num-cpus=1 --block"
    )
    return subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], start_new_session=True, stdout=subprocess.DEVNULL
    )


def main(hidden: str, result: str, *config_files: str) -> None:
    """Write what generating each config ends with: an error's message, or the content of the set."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    configs = [load_config(file, [f"cluster.address={cluster.address}"]) for file in config_files]
    node = add_node_that_does_not_share(cluster, hidden)
    try:
        connect(configs[0].cluster)
        while sum(each["Alive"] for each in ray.nodes()) < 2:
            assert node.poll() is None, "the node could not start"
            time.sleep(0.1)
        ended = []
        for config in configs:
            try:
                ended.append(generate(config).result["content_id"])
            except SioRayError as error:
                ended.append(str(error))
        Path(result).write_text(json.dumps(ended))
    finally:
        ray.shutdown()
        os.killpg(node.pid, signal.SIGTERM)
        node.wait()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
