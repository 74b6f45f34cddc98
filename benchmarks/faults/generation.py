"""Faults of generation: of actors, samplers, nodes, the driver and the disk, on one stream of small shards."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from faults.ledger import Fault, Ledger, Work
from faults.processes import Census, kill, last_words, start_driver, workers_of
from faults.stream import draw_alone, make_control
from sio_ray.imageset import ImageSet, Manifest
from sio_ray.imageset.storage import Folder

ACTOR, NODE, DRIVER, DISK = "actor killed", "node killed, one added", "driver killed", "disk full"
RAISE, HANG, LEAK = "sampler raises", "sampler hangs", "sampler leaks"
_ORDERS = {RAISE: "raise", HANG: "hang", LEAK: "leak"}

#: Kinds, and how many of 100 faults of generation are of each.
SHARES = {ACTOR: 48, RAISE: 20, HANG: 7, LEAK: 9, NODE: 5, DRIVER: 8, DISK: 3}

_NUM_NODES = 3
_SHARDS_PER_FAULT = 25
_MAX_RECOVERY_S = 300.0
_MAX_FINISH_S = 1800.0
_DISK_BYTES = 256 * 2**20


def run(kinds: list[str], ledger: Ledger, folder: Path, rng: random.Random) -> None:
    """Inject faults of these kinds, in this order, and check the set in the end."""
    disk = folder / "disk"
    disk.mkdir()
    with mounted(disk) as is_small:
        if not is_small:
            ledger.say(f"this user may not mount a small disk: {kinds.count(DISK)} times no full disk")
            kinds = [kind for kind in kinds if kind != DISK]
        number = 0
        while kinds:
            number += 1
            kinds = _Stream(disk / f"set{number}", folder / f"control{number}", len(kinds), ledger, rng).run(kinds)
            shutil.rmtree(disk / f"set{number}")


@contextmanager
def mounted(folder: Path) -> Iterator[bool]:
    """A small disk in memory; whether this user may have one."""
    options = ["-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


class _Stream:
    """One set in the making, and what is done to it."""

    def __init__(self, images: Path, control: Path, num_faults: int, ledger: Ledger, rng: random.Random) -> None:
        self._images, self._control, self._ledger, self._rng = images, make_control(control), ledger, rng
        self._num_shards = max(60, _SHARDS_PER_FAULT * num_faults)
        self._log = control / "driver.log"
        self._census = Census()
        self._faults: list[Fault] = []

    def run(self, kinds: list[str]) -> list[str]:
        """Inject what there is time for; returns what is left for another stream."""
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(_NUM_NODES):
                self._cluster.add_node(num_cpus=1)
            self._start()
            self._wait(lambda: bool(self._actors()), "no actor began")
            while kinds and not self._is_nearly_over():
                count = len(self._faults)
                self._inject(kinds[0])
                kinds = kinds[len(self._faults) - count :]  # none was hurt if the set was finished just then
            self._finish()
            self._check()
        finally:
            self._driver.kill()
            self._driver.wait()
            self._cluster.shutdown()
        return kinds

    def _start(self) -> None:
        script = Path(__file__).with_name("stream.py")
        command = [script, self._images, self._control, str(self._num_shards)]
        self._driver = start_driver(self._cluster, command, self._log)

    # What actors say.

    def _actors(self) -> set[int]:
        """Processes that have begun a shard."""
        return {int(path.name) for path in (self._control / "log").iterdir()}

    def _begun(self, pid: int) -> list[tuple[int, bool]]:
        """The shards that a process began, in turn, each with whether it was there already."""
        lines = [line.split() for line in (self._control / "log" / str(pid)).read_text().splitlines()]
        return [(int(line[1]), line[2] == "1") for line in lines if line[0] == "begin" and len(line) == 3]

    def _num_done(self) -> int:
        return sum(1 for _ in self._images.glob("part-*.parquet"))

    def _is_nearly_over(self) -> bool:
        return self._num_done() > self._num_shards * 0.9

    # Faults.

    def _inject(self, kind: str) -> None:
        time.sleep(self._rng.uniform(0, 0.7))
        self._census.take(self._cluster)
        if kind == ACTOR:
            self._kill_actor()
        elif kind in _ORDERS:
            self._order(kind)
        elif kind == NODE:
            self._lose_node()
        elif kind == DRIVER:
            fault, before = self._begin(kind)
            self._driver.kill()
            self._driver.wait()
            self._start()
            self._recover(fault, before, _NUM_NODES)
        elif kind == DISK:
            self._fill_disk()

    def _begin(self, kind: str) -> tuple[Fault, set[int]]:
        """A fault comes now; it, and the actors that were at work before."""
        fault = self._ledger.begin(kind)
        self._faults.append(fault)
        return fault, self._actors()

    def _recover(self, fault: Fault, before: set[int], count: int = 1) -> None:
        """Wait until so many new actors are at work in the place of those that were hit."""
        self._wait(lambda: len(self._actors() - before) >= count, f"after {fault.kind}: no new actor began")
        self._ledger.recovered(fault)

    def _at_work(self) -> list[psutil.Process]:
        known = self._actors()
        actors = [actor for node in self._cluster.worker_nodes for actor in workers_of(node, "PoolActor")]
        return sorted((actor for actor in actors if actor.pid in known), key=lambda actor: actor.pid)

    def _kill_actor(self) -> None:
        self._wait(lambda: bool(self._at_work()), "no actor is at work")
        at_work = self._at_work()
        if not at_work or not kill(self._rng.choice(at_work)):
            return  # the set is finished
        self._recover(*self._begin(ACTOR))

    def _lose_node(self) -> None:
        node = self._rng.choice(sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id))
        fault, before = self._begin(NODE)
        self._cluster.remove_node(node, allow_graceful=False)
        self._cluster.add_node(num_cpus=1)
        self._recover(fault, before)

    def _order(self, kind: str) -> None:
        name = f"{len(self._ledger.faults):04d}.{_ORDERS[kind]}"
        (self._control / "orders" / name).touch()
        self._wait(lambda: bool(self._claim(name)), f"nobody took the order {name}")
        pid = self._claim(name)
        if not pid:
            return  # the set is finished
        fault, before = self._begin(kind)
        if kind == RAISE:  # its actor lives on
            self._wait(lambda: len(self._begun(pid)) > self._count_at_claim(name), "a sampler that raised is gone")
            self._ledger.recovered(fault)
        else:
            self._recover(fault, before)

    def _claim(self, name: str) -> int:
        claims = list((self._control / "claimed").glob(f"{name}.*"))
        return int(claims[0].name.split(".")[2]) if claims else 0

    def _count_at_claim(self, name: str) -> int:
        """How many shards an actor had begun with the one that failed."""
        (claim,) = (self._control / "claimed").glob(f"{name}.*")
        pid, shard_id = map(int, claim.name.split(".")[2:])
        return [shard for shard, _ in self._begun(pid)].index(shard_id) + 1

    def _fill_disk(self) -> None:
        fault, before = self._begin(DISK)
        ballast = self._images.parent / "ballast"
        with ballast.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(2**16))
            except OSError:
                pass
        self._wait(lambda: self._driver.poll() is not None, "the driver goes on with a full disk", ends_well=True)
        if self._driver.returncode != 2 or "No space left on device" not in last_words(self._log):
            self._ledger.complain(f"a full disk ended with {self._driver.returncode}: {last_words(self._log)}")
        if (self._images / "manifest.json").exists():
            self._ledger.complain("a full disk left a manifest")
        ballast.unlink()
        fault.at_s = time.monotonic()  # what follows is recovery
        self._start()
        self._recover(fault, before, _NUM_NODES)

    def _wait(self, happened: Any, otherwise: str, *, ends_well: bool = False) -> None:
        deadline_s = time.monotonic() + _MAX_RECOVERY_S
        while not happened():
            if not ends_well and self._driver.poll() is not None:
                if self._driver.returncode == 0:
                    return
                # Shards that were hit three times are set aside, and named; the same command draws them.
                self._ledger.say(f"the driver ended with {self._driver.returncode}: {last_words(self._log)}")
                self._start()
            if time.monotonic() > deadline_s:
                self._ledger.complain(otherwise)
                return
            time.sleep(0.02)

    # The end.

    def _finish(self) -> None:
        (self._control / "hurry").touch()
        for _ in range(3):
            if self._driver.wait(timeout=_MAX_FINISH_S) == 0:
                return
            self._ledger.say(f"the driver ended with {self._driver.returncode}: {last_words(self._log)}")
            self._start()
        self._ledger.complain(f"the set is not finished after three runs: {last_words(self._log)}")

    def _check(self) -> None:
        """Compare with what one process draws; look for what was made twice, and for what was left behind."""
        orphans = self._census.orphans(self._cluster)
        twice = sum(is_there for pid in self._actors() for _, is_there in self._begun(pid))
        expected = draw_alone(self._num_shards, self._control / "undisturbed")
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self._images.glob("part-*.parquet")
        }
        manifest = {shard.name: shard.sha256 for shard in Manifest.read(Folder(str(self._images))).shards}
        lost = sum(found.get(name) != sha256 for name, sha256 in expected.items())
        beside = sorted(path.name for path in self._images.iterdir() if path.name not in expected)
        ids = ImageSet(str(self._images)).read().image_ids.tolist()
        for what, is_wrong in (
            (f"orphans: {orphans}", orphans),
            (f"files beside the set: {beside}", beside != ["manifest.json"]),
            ("image ids are not 0, 1, 2, ...", ids != list(range(5 * self._num_shards))),
        ):
            if is_wrong:
                self._ledger.complain(what)
        is_equal = manifest == found == expected and beside == ["manifest.json"] and not orphans
        kills = sum(fault.kind in (ACTOR, NODE, DRIVER, HANG) for fault in self._faults)
        name = f"a set of {len(ids):,} images in {len(found):,} shards"
        # An actor has two shards in hand, and may die when one is written and not yet told of.
        self._ledger.settle(Work(name, len(self._faults), lost, twice, may_be_twice=2 * kills, is_equal=is_equal))
