"""Finds out before work starts whether the nodes of a cluster see the local paths that a stage reads and writes."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sio_ray.config import Config
from sio_ray.errors import ResourceError
from sio_ray.evaluation.references import paths_in
from sio_ray.imageset.storage import PARTIAL_SUFFIX, Folder
from sio_ray.progress import console

#: Nodes that are asked at once, and how long all may take to answer; each starts a process for it.
_AT_ONCE = 64
_TIMEOUT_S = 120.0

#: How long a node looks for what was written just now: file systems over a network may show it late.
_SHOWN_LATE_S = 5.0

#: Of a folder that is read, so many names are compared; and of a file, so many bytes.
_NUM_NAMES = 100
_NUM_BYTES = 4096

_NUM_NODES_SHOWN = 5


@dataclass(frozen=True)
class UsedPath:
    """A local path that a stage's workers use.

    Attributes:
        field: of the config, which names it.
        path: absolute.
        is_written: workers write there, so it must be one folder; what is only read may be a copy on each node.
    """

    field: str
    path: str
    is_written: bool

    def error(self, unseen_by: Sequence[str], num_nodes: int) -> ResourceError:
        """The error for a path that some nodes do not see.

        Args:
            unseen_by: names of these nodes.
            num_nodes: how many there are beside the driver's.
        """
        shown = ", ".join(unseen_by[:_NUM_NODES_SHOWN]) + ", ..." * (len(unseen_by) > _NUM_NODES_SHOWN)
        cluster = "all nodes of the Ray cluster"
        rule = f"a folder that {cluster} share" if self.is_written else f"on {cluster}"
        remedy = "give one on a file system that all nodes mount at the same path"
        if not self.is_written:
            remedy += ", or copy it there on every node"
        elif self.field == "generate.output":
            remedy += ", or a URI such as s3://bucket/set"
        return ResourceError(
            f"{self.field} must be {rule}, got {self.path!r}, and what the driver's node has there is not seen on "
            f"{len(unseen_by)} of {num_nodes} other nodes ({shown}); {remedy}."
        )


@dataclass(frozen=True)
class _Evidence:
    """What a node must see to be believed: `look` of `path`, as it is on the driver's node."""

    path: str
    look: str


def used_paths(config: Config, stage: str) -> list[UsedPath]:
    """The local paths that workers of a stage use; a URI leads to the same place from everywhere.

    Args:
        config: whose paths.
        stage: such as `train`.
    """
    written: dict[str, Any] = {"output_dir": config.run_dir}
    read: list[tuple[str, Any]] = []
    generate = config.generate
    if stage == "prepare":
        read.append(("prepare.root", config.prepare.root))
    if stage == "generate":
        written["generate.output"] = generate.output
        read.append(("generate.generator", generate.generator))
        read.append(("generate.curation.classifier", generate.curation.classifier))
    if stage in ("train", "evaluate", "tune"):
        read.append(("generate.output", generate.output))
        sets = ("synthetic_set", "outlier_set", "mixing_set")
        read += [(f"train.{name}", getattr(config.train, name)) for name in sets]
    if stage == "evaluate":
        for arm, references in config.evaluate.checkpoints.items():
            read += [(f"evaluate.checkpoints.{arm}", path) for each in references for path in paths_in(each)]
        for arm, folders in config.evaluate.outputs.items():
            read += [(f"evaluate.outputs.{arm}", folder) for folder in folders]
    return [
        *(UsedPath(field, path, True) for field, path in _local(written.items())),
        # One that is missing here is a name of the hub, or for the stage to refuse.
        *(UsedPath(field, path, False) for field, path in _local(read) if Path(path).exists()),
    ]


def _local(given: Any) -> Iterator[tuple[str, str]]:
    for field, path in given:
        if path is not None and "://" not in str(path).removeprefix("file://"):
            yield field, str(Path(str(path).removeprefix("file://")).absolute())


def check_shared_storage(config: Config, stage: str) -> None:
    """Refuse to begin where a node cannot see what the stage reads or writes; costs nothing on one node.

    A file of random content is written into every folder that the stage writes, and each other node reads it. Of what
    is only read, nodes compare the first names and sizes in a folder, or the beginning of a file. Nodes that join later
    are not asked, and one that does not answer in time is named, no more.

    Args:
        config: whose paths.
        stage: about to work; Ray is connected.

    Raises:
        ResourceError: a path is not seen on some nodes; it names field, path and nodes.
    """
    nodes = _other_nodes()
    if not nodes:
        return
    paths = used_paths(config, stage)
    with _evidence(paths) as evidence:
        answers = _ask(nodes, evidence)
    for path, is_seen in zip(paths, zip(*answers.values(), strict=True), strict=False):
        unseen_by = [nodes[node] for node, seen in zip(answers, is_seen, strict=True) if not seen]
        if unseen_by:
            raise path.error(unseen_by, len(nodes))
    silent = [name for node, name in nodes.items() if node not in answers]
    if silent:
        console.print(
            f"  {len(silent)} of {len(nodes)} nodes did not say in {_TIMEOUT_S:.0f} s whether they see the folders of "
            f"this run ({', '.join(silent[:_NUM_NODES_SHOWN])}); going on",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _other_nodes() -> dict[str, str]:
    """Id to name of every node that is alive, but for the driver's own."""
    import ray

    # A driver that is a client from outside is on none of them.
    own = None if ray.util.client.ray.is_connected() else ray.get_runtime_context().get_node_id()
    return {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"] and node["NodeID"] != own}


def _name(node: Mapping[str, Any]) -> str:
    name, address = node.get("NodeName"), str(node["NodeManagerAddress"])
    return f"{name} ({address})" if name and name != address else address


@contextmanager
def _evidence(paths: Sequence[UsedPath]) -> Iterator[list[_Evidence]]:
    """What to look for; what was written for it is gone afterwards."""
    probe = f".shared-{secrets.token_hex(8)}{PARTIAL_SUFFIX}"  # which readers and listings of a set pass over
    written = [Folder(path.path) for path in paths if path.is_written]
    try:
        for folder in written:
            folder.write_bytes(probe, secrets.token_bytes(32))
        looked_at = [f"{path.path}/{probe}" if path.is_written else path.path for path in paths]
        yield [_Evidence(path, _look(path)) for path in looked_at]
    finally:
        for folder in written:
            folder.delete(probe)


def _look(path: str) -> str:
    """A file or folder in short: the same wherever it, or a copy of it, is seen; empty where nothing is."""
    place = Path(path)
    try:
        if not place.is_dir():
            with place.open("rb") as stream:
                return f"{place.stat().st_size} {hashlib.sha256(stream.read(_NUM_BYTES)).hexdigest()}"
        entries = itertools.islice(sorted(place.iterdir()), _NUM_NAMES)
        return hashlib.sha256(
            "\n".join(f"{entry.name} {0 if entry.is_dir() else entry.stat().st_size}" for entry in entries).encode()
        ).hexdigest()
    except OSError:
        return ""


def _sees(evidence: Sequence[_Evidence]) -> list[bool]:
    """Runs on every other node: whether it sees what the driver's node sees."""
    deadline_s = time.monotonic() + _SHOWN_LATE_S
    while True:
        seen = [_look(each.path) == each.look for each in evidence]
        if all(seen) or time.monotonic() > deadline_s:
            return seen
        time.sleep(0.2)


def _ask(nodes: Mapping[str, str], evidence: list[_Evidence]) -> dict[str, list[bool]]:
    """Node to what it sees, in the order of the evidence; nodes that have gone, or are silent, are left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(_sees)
    deadline_s = time.monotonic() + _TIMEOUT_S
    running: dict[Any, str] = {}
    answers: dict[str, list[bool]] = {}
    waiting = iter(nodes)
    while True:
        for node in itertools.islice(waiting, _AT_ONCE - len(running)):
            pinned = remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            running[pinned.remote(evidence)] = node
        left_s = deadline_s - time.monotonic()
        if not running or left_s <= 0:
            break
        ended, _ = ray.wait(list(running), timeout=left_s)
        for ref in ended:
            node = running.pop(ref)
            try:
                answers[node] = ray.get(ref)
            except ray.exceptions.RayError:
                continue  # it has gone, or cannot load this package, which the stage's own work will tell
    for ref in running:
        ray.cancel(ref)
    return answers
