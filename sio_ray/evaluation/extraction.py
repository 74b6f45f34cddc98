"""Runs networks over image sets on a pool of Ray actors: each shard once per network, only what is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache, lru_cache, partial
from typing import Any, ClassVar, cast

import torch
from torch import nn

from sio_ray.cluster import connect, is_ours
from sio_ray.config import ClusterConfig, EvaluateConfig
from sio_ray.errors import CheckpointError, ConfigError, EvaluationError, ImageSetError
from sio_ray.evaluation.networks import load_network
from sio_ray.imageset import ImageSet, ImageSetInfo
from sio_ray.imageset.content_hash import content_hashes
from sio_ray.imageset.storage import Folder
from sio_ray.ood.extract import extract
from sio_ray.ood.probe import Probe, ScoredNetwork
from sio_ray.ood.store import OutputStore, group_of
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize, Work
from sio_ray.pool.watch import PoolWatch
from sio_ray.progress import console, count_progress

#: Extraction, as a pool's messages name it.
EXTRACTING = Work(
    stage="evaluate",
    doing="extracting",
    cpus_field="evaluate.cpus_per_task",
    gpus_field="evaluate.gpus_per_task",
    timeout_field="evaluate.shard_timeout_s",
    error=EvaluationError,
    fatal=(ConfigError, CheckpointError, EvaluationError, ImageSetError),
)


@dataclass(frozen=True)
class Extraction:
    """One network over one image set.

    Attributes:
        name: of the network, for messages.
        network: references for `load_network`; several are an ensemble.
        image_set: path or URI.
        folder: path or URI of the `OutputStore`.
        probes: what to read beside features and logits.
        identity: JSON values that tell this network from others; the content of the image set is added to them.
    """

    name: str
    network: tuple[str, ...]
    image_set: str
    folder: str
    probes: tuple[Probe, ...]
    identity: dict[str, Any]


@dataclass(frozen=True)
class ExtractionCost:
    """What the shards that were extracted now took; seconds of all actors together, which overlap, but for `wall_s`.

    Attributes:
        num_images: passes of an image through a network.
        read_s: reading, decoding and hashing images.
        network_s: loading networks, and passes with their probes.
        write_s: writing outputs.
        wall_s: from the first to the last.
    """

    num_images: int = 0
    read_s: float = 0.0
    network_s: float = 0.0
    write_s: float = 0.0
    wall_s: float = 0.0

    def __add__(self, other: ExtractionCost) -> ExtractionCost:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ExtractionCost(*(mine + theirs for mine, theirs in pairs))


@dataclass(frozen=True)
class _Unit:
    """One shard of one extraction, and the groups of columns that it lacks."""

    extraction: Extraction
    shard_id: int
    num_shards: int
    num_images: int
    groups: frozenset[str]

    @property
    def labels(self) -> dict[str, Any]:
        """For its events."""
        image_set = Folder(self.extraction.image_set).safe_uri
        return {"shard": self.shard_id, "image_set": image_set, "network": self.extraction.name}

    def __str__(self) -> str:
        return f"shard {self.shard_id} of {Folder(self.extraction.image_set).safe_uri} by {self.extraction.name}"


@dataclass(frozen=True)
class _Extracted:
    """What an actor tells of a shard that it has written; all copies are as good, so none is told from another."""

    num_images: int
    read_s: float
    network_s: float
    write_s: float
    digest: ClassVar[str] = ""


def extract_all(
    extractions: Sequence[Extraction], id_info: ImageSetInfo, section: EvaluateConfig, cluster: ClusterConfig
) -> ExtractionCost:
    """Extract what is missing of all; a run that is killed goes on where it stopped.

    Args:
        extractions: each with a folder of its own.
        id_info: of the ID set, whose classes the networks know.
        section: what to ask Ray for, how much trouble to bear, and images per pass.
        cluster: to connect to, if anything is missing.

    Raises:
        EvaluationError: a value is not finite, a folder belongs to another network, or shards failed; all others are
            kept.
        CheckpointError: a network cannot be loaded.
        ConfigError: a batch does not fit the GPU.
        ImageSetError: a set is missing or corrupt.
        ResourceError: the cluster fits no actor, or a folder cannot be written.
    """
    assert len({each.folder for each in extractions}) == len(extractions), "two extractions into one folder"
    units, num_done = _missing(extractions)
    if not units:
        return ExtractionCost()
    connect(cluster)
    start_s = time.monotonic()
    num_images = sum(unit.num_images for unit in units)
    with (
        count_progress("extract", num_done + num_images, "images") as progress,
        PoolWatch[_Extracted](
            progress,
            images=lambda done: done.num_images,
            seconds=lambda done: {"read": done.read_s, "network": done.network_s, "write": done.write_s},
            labels=lambda unit_id: units[unit_id].labels,
        ) as watch,
    ):
        progress.advance(num_done, is_new=False)
        pool = Pool(
            EXTRACTING,
            partial(_Extractor, units, id_info, section),
            PoolSize(section.num_actors, section.cpus_per_task, section.gpus_per_task),
            Patience(
                section.max_failures_per_shard,
                section.shard_timeout_s,
                0 if is_ours(cluster) else section.max_wait_s,
            ),
            on_news=watch.hear,
        )
        pool.run(range(len(units)))
    for extraction in extractions:
        OutputStore(extraction.folder).folder.sweep()
    if pool.set_aside:
        unit_id, reason = min(pool.set_aside.items())
        raise EvaluationError(
            f"{len(pool.set_aside)} of {len(units)} shards failed {section.max_failures_per_shard} times each; the "
            f"first ({units[unit_id]}): {reason.rstrip('.')}. All others are kept; run the same command to retry only "
            "these."
        )
    done = pool.done.values()
    return ExtractionCost(
        num_images=num_images,
        read_s=sum(each.read_s for each in done),
        network_s=sum(each.network_s for each in done),
        write_s=sum(each.write_s for each in done),
        wall_s=time.monotonic() - start_s,
    )


def _missing(extractions: Sequence[Extraction]) -> tuple[list[_Unit], int]:
    """What is to do, network by network, so that an actor seldom loads another; and how many images are done."""
    units, num_there = [], 0
    open_set = cache(ImageSet)
    networks = list(dict.fromkeys(extraction.network for extraction in extractions))
    for extraction in sorted(extractions, key=lambda each: networks.index(each.network)):
        manifest = open_set(extraction.image_set).manifest
        store = OutputStore(extraction.folder)
        store.begin({**extraction.identity, "image_set": manifest.content_id})
        missing = store.missing(len(manifest.shards), extraction.probes)
        for shard_id, shard in enumerate(manifest.shards):
            if shard_id in missing:
                unit = _Unit(extraction, shard_id, len(manifest.shards), shard.num_images, missing[shard_id])
                units.append(unit)
            else:
                num_there += shard.num_images
    if num_there and units:
        console.print(f"  {num_there:,} images have been extracted already; extracting the others")
    return units, num_there


class _Extractor:
    """Extracts shards in an actor; the network of the last one is kept, as the next one mostly has the same.

    Two threads may each have a shard: one runs the network while the other reads or writes images. No two are at the
    network together.
    """

    def __init__(self, units: Sequence[_Unit], id_info: ImageSetInfo, section: EvaluateConfig) -> None:
        self._units, self._id_info, self._section = units, id_info, section
        self._open_set = lru_cache(maxsize=16)(ImageSet)  # a manifest may be large
        self._at_network = threading.Lock()
        self._references: tuple[str, ...] = ()
        self._network: ScoredNetwork | None = None

    def do(self, unit_id: int) -> _Extracted:
        unit = self._units[unit_id]
        extraction = unit.extraction
        start_s = time.perf_counter()
        image_set = self._open_set(extraction.image_set)
        arrays = image_set.read_shard(image_set.manifest.shards[unit.shard_id])
        content = content_hashes(arrays.images)
        read_s = time.perf_counter() - start_s
        probes = [probe for probe in extraction.probes if group_of(probe) in unit.groups]
        with self._at_network:
            start_s = time.perf_counter()
            where = f"{image_set} by {extraction.name}"
            try:
                network = self._load(extraction.network)
                outputs = extract(network, arrays, batch_size=self._section.batch_size, probes=probes, where=where)
            except torch.OutOfMemoryError:
                rule, remedy = f"small enough for {torch.cuda.get_device_name()}", "halve it, or leave out detectors"
                raise ConfigError("evaluate.batch_size", rule, self._section.batch_size, remedy) from None
            network_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        OutputStore(extraction.folder).write(unit.shard_id, unit.num_shards, outputs, content, probes, unit.groups)
        return _Extracted(unit.num_images, read_s, network_s, time.perf_counter() - start_s)

    def _load(self, references: tuple[str, ...]) -> ScoredNetwork:
        if self._network is None or references != self._references:
            self._network = None  # two might not fit the GPU
            network = load_network(references, self._id_info, download=self._section.download)
            cast(nn.Module, network).to("cuda" if self._section.gpus_per_task else "cpu")
            self._references, self._network = references, network
        return self._network
