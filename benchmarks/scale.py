"""Draw a set of ImageNet's size through the real actors while actors and drivers are killed, then check every picture.

python benchmarks/scale.py --json                     # 1,281,167 images of 64x64 RGB in 1000 classes; about 16 GB
python benchmarks/scale.py --images 20000 --actor-kills 3 --driver-kills 1

The generator is the closed form (one Gaussian per class), so that the service is measured, not a network. The driver is
the command `sio-ray generate`, on a Ray cluster of this machine's cores that outlives it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml

from sio_ray.diffusion.gaussian import GaussianDenoiser
from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.schedulers import EDM_SCHEDULERS
from sio_ray.imageset import Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.provenance import machine

NUM_CLASSES, SIDE_PX, SIGMA_DATA = 1000, 64, 0.3
SEED = 0


def save_generator(folder: Path) -> None:
    """A Gaussian per class around a smooth picture of its own."""
    generator = torch.Generator().manual_seed(SEED)
    coarse = torch.randn(NUM_CLASSES + 1, 3, 4, 4, generator=generator) * 0.25
    means = torch.nn.functional.interpolate(coarse, size=(SIDE_PX, SIDE_PX), mode="bicubic").clamp(-0.8, 0.8)
    denoiser = GaussianDenoiser((SIDE_PX, SIDE_PX), 3, NUM_CLASSES + 1, rank=0, sigma_data=SIGMA_DATA)
    denoiser.mean.copy_(means.flatten(1))
    denoiser.noise_variance.fill_(0.05**2)
    scheduler = EDM_SCHEDULERS["edm_euler"](sigma_data=SIGMA_DATA)
    ClassConditionalEDMPipeline(denoiser, scheduler).save_pretrained(str(folder), safe_serialization=True)


class Watcher(threading.Thread):
    """Notes the driver's memory and how many shards there are, and kills when it is time."""

    def __init__(self, images: Path, num_shards: int, actor_kills: int, driver_kills: int) -> None:
        super().__init__(daemon=True)
        rng = random.Random(SEED)
        self._images, self._num_shards = images, num_shards
        #: Shards at which to kill, spread over the run.
        self._actor_kills = sorted(rng.randrange(num_shards // 50, num_shards * 49 // 50) for _ in range(actor_kills))
        self._driver_kills = [num_shards * (k + 1) // (driver_kills + 1) for k in range(driver_kills)]
        self._rng = rng
        self.driver: psutil.Process | None = None
        self.rss_mb: list[tuple[float, int, float]] = []
        self.killed: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        """Look every half second."""
        start_s = time.monotonic()
        while not self.ended.wait(0.5):
            count = sum(1 for _ in self._images.glob("part-*.parquet"))
            driver = self.driver
            try:
                if driver is not None:
                    self.rss_mb.append((time.monotonic() - start_s, count, driver.memory_info().rss / 2**20))
                if self._driver_kills and count >= self._driver_kills[0]:
                    self._driver_kills.pop(0)
                    self.killed.append("driver")
                    driver.kill()
                elif self._actor_kills and count >= self._actor_kills[0]:
                    self._actor_kills.pop(0)
                    actors = [p for p in psutil.process_iter(["name", "cmdline"]) if _is_actor(p)]
                    if actors:
                        self._rng.choice(actors).kill()
                        self.killed.append("actor")
            except psutil.NoSuchProcess:
                continue


def _is_actor(process: psutil.Process) -> bool:
    return any("PoolActor" in part for part in process.info["cmdline"] or [process.info["name"]])


def main() -> None:
    """Run, check, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps")
    parser.add_argument("--actor-kills", type=int, default=20)
    parser.add_argument("--driver-kills", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="to work in, deleted at the end; a temporary one if not given")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sio_ray_scale_"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = run(folder, arguments)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=1) if arguments.json else "\n".join(f"{k:>24}  {v}" for k, v in result.items()))


def run(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw and check one set."""
    from ray.cluster_utils import Cluster

    save_generator(folder / "generator")
    images, num_shards = folder / "images", -(-arguments.images // 1024)
    config = {
        "name": "scale",
        "output_dir": str(folder),
        "generate": {
            "generator": str(folder / "generator"),
            "output": str(images),
            "num_images": arguments.images,
            "num_inference_steps": arguments.steps,
            "images_per_shard": 1024,
            "sampler_batch_size": 64,
        },
    }
    (folder / "scale.yaml").write_text(yaml.safe_dump(config))
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False},
    )
    command = [sys.executable, "-m", "sio_ray.cli", "generate", str(folder / "scale.yaml"), "--json"]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    watcher = Watcher(images, num_shards, arguments.actor_kills, arguments.driver_kills)
    start_s = time.monotonic()
    watcher.start()
    runs = 0
    try:
        while True:
            runs += 1
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
                watcher.driver = psutil.Process(driver.pid)
                output, _ = driver.communicate()
                watcher.driver = None
            if driver.returncode == 0:
                break
            if driver.returncode != -signal.SIGKILL:
                sys.exit(f"the driver ended with {driver.returncode}")
    finally:
        watcher.ended.set()
        cluster.shutdown()
    wall_s = time.monotonic() - start_s
    outcome = json.loads(output)["result"]

    start_s = time.monotonic()
    verify = [sys.executable, "-m", "sio_ray.cli", "images", "verify", str(images)]
    checked = subprocess.run(verify, capture_output=True, text=True, check=False)
    manifest = Manifest.read(Folder(str(images)))
    rss = np.array([mb for _, _, mb in watcher.rss_mb if mb])
    tenth = 1 + len(rss) // 10
    return {
        "machine": machine(),
        "num_images": manifest.num_images,
        "num_bytes": manifest.num_bytes,
        "content_id": outcome["content_id"],
        "images_per_class": [min(manifest.class_counts), max(manifest.class_counts)],
        "wall_s": round(wall_s, 1),
        "images_per_s": round(manifest.num_images / wall_s, 1),
        "seconds_of_all_actors": outcome["seconds"],
        "drivers_started": runs,
        "killed": {kind: watcher.killed.count(kind) for kind in ("actor", "driver")},
        "driver_rss_mb": {
            "first_tenth": round(float(np.median(rss[:tenth]))),
            "last_tenth": round(float(np.median(rss[-tenth:]))),
            "most": round(float(rss.max())),
        },
        "seconds_shards_and_rss_mb": [[round(t), n, round(mb)] for t, n, mb in watcher.rss_mb[:: 1 + len(rss) // 20]],
        "verify": checked.stderr.strip().splitlines()[-1] if checked.stderr.strip() else checked.stdout.strip(),
        "verify_exit_code": checked.returncode,
        "verify_s": round(time.monotonic() - start_s, 1),
        "leftovers": sorted(path.name for path in images.iterdir() if not path.name.startswith("part-")),
    }


if __name__ == "__main__":
    main()
