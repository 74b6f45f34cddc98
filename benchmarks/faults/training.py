"""Faults of training: workers and nodes are killed in the middle of an epoch, between two checkpoints."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import time
from pathlib import Path

import numpy as np
from ray.cluster_utils import Cluster

from faults.ledger import Fault, Ledger, Work
from faults.processes import Census, all_workers, kill, last_words, start_driver
from sio_ray.config import Config, load_config
from sio_ray.imageset import ImageSet, write_image_set
from sio_ray.stages.layout import Run, train_runs
from sio_ray.stages.prepare import prepare
from sio_ray.stages.record import read_record

WORKER, NODE = "training worker killed", "training node killed, one added"

#: Kinds, and how many of 100 faults of training are of each.
SHARES = {WORKER: 75, NODE: 25}

_EVERY = 100
_MAX_WAIT_S = 600.0


def run(kinds: list[str], ledger: Ledger, folder: Path, rng: random.Random) -> None:
    """Inject faults of these kinds, in this order, into classifiers that train, one after the other."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        config = _config(folder / "runs", len(kinds))
        _make_sets(config, folder)
        undisturbed = _config(folder / "undisturbed", len(kinds))
        (folder / "undisturbed").mkdir()
        prepare(undisturbed)
        kinds, seed = list(kinds), 0
        while kinds:
            kinds = _Training(config, undisturbed, seed, cluster, folder, ledger, rng).run(kinds)
            seed += 1
    finally:
        cluster.shutdown()


def _config(folder: Path, num_faults: int) -> Config:
    """Of one small run, long enough for so many faults."""
    return load_config(
        "digits",
        [
            f"output_dir={folder}",
            *("prepare.images_per_ood_set=24", "prepare.num_outliers=24"),
            f"train.synthetic_set={folder.parent / 'synthetic'}",
            *("train.arms=[sio]", "train.width=8", "train.algorithm=cutmix", "train.ema_decay=0.9"),
            *(f"train.num_steps={_EVERY * (4 * num_faults + 4)}", f"train.report_every_steps={_EVERY}"),
        ],
    )


def _make_sets(config: Config, folder: Path) -> None:
    info = ImageSet(prepare(config).output / "id" / "train").info
    # Too many for Ray to keep with the driver, so that a node that goes takes them along.
    images = np.random.default_rng(0).integers(0, 256, (2000, *info.image_shape), dtype=np.uint8)
    write_image_set(folder / "synthetic", info, images, np.arange(2000) % info.num_classes)


class _Training:
    """One classifier in the making, and what is done to it."""

    def __init__(
        self,
        config: Config,
        undisturbed: Config,
        seed: int,
        cluster: Cluster,
        folder: Path,
        ledger: Ledger,
        rng: random.Random,
    ) -> None:
        self._config, self._undisturbed = (_with_seed(each, seed) for each in (config, undisturbed))
        self._cluster, self._folder, self._ledger, self._rng = cluster, folder, ledger, rng
        (self._run,) = train_runs(self._config)
        self._log, self._census = folder / "driver.log", Census()
        self._faults: list[Fault] = []

    def run(self, kinds: list[str]) -> list[str]:
        """Inject what there is time for; returns what is left for another classifier."""
        driver = self._start(self._config)
        try:
            while kinds and self._wait_for_a_checkpoint(driver):
                time.sleep(self._rng.uniform(0, 0.5))
                self._census.take(self._cluster)
                if driver.poll() is not None or not self._inject(kinds[0], driver):
                    continue
                kinds = kinds[1:]
            driver.wait(timeout=_MAX_WAIT_S)
        finally:
            driver.kill()
            driver.wait()
        if driver.returncode:
            self._ledger.complain(f"training ended with {driver.returncode}: {last_words(self._log)}")
        self._check()
        return kinds

    def _start(self, config: Config) -> subprocess.Popen[bytes]:
        file = self._folder / "config.yaml"
        file.write_text(json.dumps(config.model_dump(mode="json")))
        return start_driver(self._cluster, ["-m", "sio_ray.cli", "train", file], self._log)

    def _record(self) -> bytes:
        """Ray's record of the checkpoints that it would resume from."""
        paths = list(self._run.place.folder.glob("ray_train/*/checkpoint_manager_snapshot.json"))
        return paths[0].read_bytes() if paths else b""

    def _wait_for_a_checkpoint(self, driver: subprocess.Popen[bytes]) -> bool:
        """Until there is one more than now; false if training ends first."""
        before = self._record()
        while driver.poll() is None:
            record = self._record()
            if b"checkpoint_dir_name" in record and record != before:
                return True
            time.sleep(0.02)
        return False

    def _inject(self, kind: str, driver: subprocess.Popen[bytes]) -> bool:
        workers = all_workers(self._cluster, "RayTrainWorker")
        if not workers:
            return False
        fault = self._ledger.begin(kind)
        self._faults.append(fault)
        if kind == WORKER:
            kill(self._rng.choice(workers))
        else:
            (node,) = self._cluster.worker_nodes
            self._cluster.remove_node(node, allow_graceful=False)
            self._cluster.add_node(num_cpus=1)
        if self._wait_for_a_checkpoint(driver) or driver.poll() == 0:
            self._ledger.recovered(fault)
        else:
            self._ledger.complain(f"training did not go on: {last_words(self._log)}")
        return True

    def _check(self) -> None:
        """Compare weights and curve with those of a run that nobody disturbed, on the same cluster."""
        orphans = self._census.orphans(self._cluster)
        driver = self._start(self._undisturbed)
        if driver.wait(timeout=_MAX_WAIT_S):
            self._ledger.complain(f"undisturbed training ended with {driver.returncode}: {last_words(self._log)}")
        (undisturbed,) = train_runs(self._undisturbed)
        (steps, weights), (expected_steps, expected_weights) = (_outcome(run) for run in (self._run, undisturbed))
        left = sorted(path.name for path in self._run.place.folder.iterdir())
        expected_left = sorted(path.name for path in undisturbed.place.folder.iterdir())
        if orphans:
            self._ledger.complain(f"orphans: {orphans}")
        if left != expected_left:
            self._ledger.complain(f"training left {left}, undisturbed {expected_left}")
        numbers = [point["step"] for point in steps]
        is_equal = steps == expected_steps and weights == expected_weights and left == expected_left and not orphans
        self._ledger.settle(
            Work(
                f"a classifier of {numbers[-1]:,} steps",
                len(self._faults),
                lost=len({point["step"] for point in expected_steps} - set(numbers)),
                twice=len(numbers) - len(set(numbers)),
                may_be_twice=0,
                is_equal=is_equal,
            )
        )


def _with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"seeds": (seed,)})})


def _outcome(run: Run) -> tuple[list[dict[str, float]], str]:
    """The curve, and the hash of the weights."""
    record = read_record(run.place.folder)
    assert record is not None, f"{run.place.folder} has no record"
    weights = (run.place.folder / "checkpoint" / "model.safetensors").read_bytes()
    return record.result["curve"], hashlib.sha256(weights).hexdigest()[:12]
