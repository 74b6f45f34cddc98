"""Which engine feeds a run, and how its workers open it: sets shared in memory, or streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sio_ray.classifier.algorithms import check_algorithm
from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.feed import Feed, MemoryFeed, Sources
from sio_ray.config import TrainConfig
from sio_ray.config.evaluate_section import Arm
from sio_ray.imageset import ImageSet
from sio_ray.training.shared_sets import SourceSpec, decoded_bytes, fetch, share


def streams(section: TrainConfig, sources: Mapping[str, SourceSpec]) -> bool:
    """Whether a run streams its sets: as asked for, or where they take more memory decoded than `memory_limit_gb`."""
    if section.feed != "auto":
        return section.feed == "stream"
    num_bytes: int = sum(decoded_bytes(ImageSet(uri), limit) for uri, limit in sources.values())
    return num_bytes > section.memory_limit_gb * 1e9


def cpus_of_feed(section: TrainConfig, sources: Mapping[str, SourceSpec]) -> int:
    """CPU cores that the feed of each worker takes beside the worker's own; they are asked for together."""
    return section.decoders_per_worker if streams(section, sources) else 0


def share_sources(
    section: TrainConfig, by_arm: Mapping[Arm, Mapping[str, SourceSpec]], val_uri: str
) -> tuple[dict[Arm, dict[str, Any]], Any]:
    """What workers open the sets of each arm by, and the validation set: decoded images of all that is not streamed.

    An arm streams or not by its own sets, whichever others are trained beside it: the order of its batches depends
    on that.

    Raises:
        ResourceError: they do not fit into Ray's object store.
    """
    in_memory = [sources for sources in by_arm.values() if not streams(section, sources)]
    decoded = share({"val": (val_uri, None), **{name: spec for sources in in_memory for name, spec in sources.items()}})
    opened = {
        arm: {name: spec if streams(section, sources) else decoded[name] for name, spec in sources.items()}
        for arm, sources in by_arm.items()
    }
    return opened, decoded["val"]


def open_feed(
    section: TrainConfig,
    sources: Mapping[str, Any],
    *,
    arm: Arm,
    seed: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    pool_size: Callable[[int], int] | None = None,
) -> Feed:
    """Open the feed of one worker.

    Args:
        section: recipe, with `num_steps` resolved.
        sources: of `share_sources`, those of the arm.
        arm: `baseline` on real images alone, or `sio`.
        seed: of orders and augmentation.
        device: where batches are wanted.
        rank: position of this worker.
        world_size: number of workers.
        pool_size: step to the number of synthetic images in use; all if None.

    Raises:
        BatchError: a batch cannot be composed so.
    """
    needs_outliers = "outliers" in check_algorithm(section.algorithm, section.algorithm_options).needs
    options: dict[str, Any] = {
        "global_batch_size": section.global_batch_size,
        "real_batch_share": 1.0 if arm == "baseline" else section.batch_share,
        "num_outliers": num_outliers_of(section) if needs_outliers else 0,
        "augmentation": Augmentation.of(section),
        "seed": seed,
        "rank": rank,
        "world_size": world_size,
        "device": device,
        "pool_size": pool_size,
    }
    if any(isinstance(source, tuple) for source in sources.values()):
        from sio_ray.training.streaming import StreamedSet, StreamingFeed  # Ray Data takes a second to import

        streamed = {name: StreamedSet(*source) for name, source in sources.items()}
        return StreamingFeed(
            Sources(**streamed),
            window=section.shuffle_window_images,
            num_decoders=section.decoders_per_worker,
            num_steps=section.num_steps,
            **options,
        )
    return MemoryFeed(Sources(**{name: fetch(source) for name, source in sources.items()}), **options)


def num_outliers_of(section: TrainConfig) -> int:
    """Outliers per step over all workers, where an algorithm takes some."""
    return section.outlier_batch_size or 2 * section.global_batch_size
