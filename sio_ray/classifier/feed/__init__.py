"""The feed: mixed batches of exactly the asked composition, every real image once per epoch."""

from sio_ray.classifier.feed.batches import MixedBatches
from sio_ray.classifier.feed.composition import Composition, Parts, compose
from sio_ray.classifier.feed.memory import MemoryFeed
from sio_ray.classifier.feed.sampler import MixedBatchSampler
from sio_ray.classifier.feed.sources import Feed, Sources

__all__ = [
    "Composition",
    "Feed",
    "MemoryFeed",
    "MixedBatchSampler",
    "MixedBatches",
    "Parts",
    "Sources",
    "compose",
]
