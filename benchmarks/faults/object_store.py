"""A stream of shards onto an object store that fails every tenth request."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from faulty_s3 import CREDENTIALS, faulty_store, no_fault, seeded
from ray.cluster_utils import Cluster

from faults.ledger import Ledger
from faults.processes import last_words, start_driver
from faults.stream import draw_alone, make_control
from sio_ray.imageset import Manifest, clients
from sio_ray.imageset.storage import Folder

NUM_SHARDS = 150
SHARE = 0.1


def run(ledger: Ledger, folder: Path) -> dict[str, Any]:
    """Draw a set; what failed is counted by itself, as a failed request is a smaller thing than a killed process."""
    os.environ |= CREDENTIALS  # of moto, which asks nobody who he is; workers need them in their environment
    control, log = make_control(folder / "store", hurry=True), folder / "store.log"
    expected = draw_alone(NUM_SHARDS, folder / "store_undisturbed")
    with faulty_store("sets") as store:
        store.rule = seeded(0, SHARE, "refuse", "lose_answer", "cut_upload", "cut_download", "delay")
        images = Folder(store.uri("me:secret@sets/images") + "&region=us-east-1")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
        try:
            script = Path(__file__).with_name("stream.py")
            driver = start_driver(cluster, [script, images.uri, control, str(NUM_SHARDS)], log)
            if driver.wait(timeout=900):
                ledger.complain(f"the object store ended the driver with {driver.returncode}: {last_words(log)}")
        finally:
            cluster.shutdown()
        faults = Counter(fault for _, fault in store.seen if fault is not None)
        num_requests = len(store.seen)
        store.rule = no_fault
        found = {shard.name: shard.sha256 for shard in Manifest.read(images).shards}
        beside = sorted(set(images.files(below=True)) - expected.keys())
    clients.open_uri.cache_clear()
    is_equal = found == expected and beside == ["manifest.json"]
    if not is_equal:
        ledger.complain(f"the set in the object store differs; beside it lie {beside}")
    return {"requests": num_requests, "failed": dict(faults), "shards": len(found), "is_equal": is_equal}
