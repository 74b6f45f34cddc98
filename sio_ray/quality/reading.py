"""Reads an image set once, shard by shard: keeps what a classifier says of every picture, and a few pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sio_ray.classifier.model import Classifier
from sio_ray.imageset import ImageSet
from sio_ray.imageset.pictures import UInt8Array
from sio_ray.ood.extract import extract

_BATCH_SIZE = 256


@dataclass(frozen=True)
class ClassifierOutputs:
    """What a classifier says of N pictures, on the CPU.

    Attributes:
        features: (N, D) float32.
        predicted: (N,) int64, the class of the largest logit.
        confidence: (N,) float32, softmax probability of the label.
    """

    features: Tensor
    predicted: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class SeenSet:
    """An image set after one pass.

    Attributes:
        labels: (N,) int64.
        outputs: of the classifier, if there is one.
        kept: (S,) int64, ascending, which pictures were kept.
        images: (S, C, H, W) uint8, the kept pictures.
    """

    labels: Tensor
    outputs: ClassifierOutputs | None
    kept: npt.NDArray[np.int64]
    images: UInt8Array

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, label: int | None) -> Tensor | slice:
        """Index of the pictures of a class, or of all."""
        return slice(None) if label is None else (self.labels == label).nonzero()[:, 0]

    def kept_rows(self, label: int | None) -> npt.NDArray[np.bool_]:
        """(S,) which of the kept pictures are of a class, or all."""
        labels = self.labels.numpy()[self.kept]
        return np.ones(len(labels), dtype=np.bool_) if label is None else labels == label


def read_set(
    image_set: ImageSet,
    *,
    limit: int | None,
    num_kept: int,
    classifier: Classifier | None,
    advance: Callable[[int], object],
) -> SeenSet:
    """Read a set; memory is that of one shard, the features and the kept pictures.

    Args:
        image_set: with labels in [0, C).
        limit: only the pictures with the `limit` lowest ids, at least 1.
        num_kept: pictures to keep at most; a random choice that is the same every time.
        classifier: of these classes, on the device to run on.
        advance: is told every number of pictures that are read.

    Raises:
        ImageSetError: a shard is missing or corrupt.
        EvaluationError: a feature or logit is not finite.
    """
    count = image_set.count(limit)
    # Not the first ones: a real set may be in the order of its classes.
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:num_kept].sort().values.numpy()
    images = np.empty((len(kept), *image_set.info.image_shape), dtype=np.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    outputs = None
    if classifier is not None:
        features = torch.empty(count, classifier.num_features)
        outputs = ClassifierOutputs(features, torch.empty(count, dtype=torch.int64), torch.empty(count))
    start = 0
    for entry in image_set.manifest.shards:
        if start == count:
            break
        shard = image_set.read_shard(entry).first(count - start)
        rows = slice(start, start + len(shard))
        labels[rows] = torch.tensor(shard.labels)  # a copy, as Arrow's arrays are read-only
        here = slice(*np.searchsorted(kept, [rows.start, rows.stop]))
        images[here] = shard.images[kept[here] - start]
        if classifier is not None and outputs is not None:
            of_shard = extract(classifier, shard, batch_size=_BATCH_SIZE, probes=(), where=str(image_set))
            outputs.features[rows] = of_shard.features
            outputs.predicted[rows] = of_shard.logits.argmax(1)
            probabilities = of_shard.logits.softmax(1)
            outputs.confidence[rows] = probabilities.gather(1, of_shard.labels[:, None])[:, 0]
        start = rows.stop
        advance(len(shard))
    return SeenSet(labels, outputs, kept, images)


def pictures_at(image_set: ImageSet, positions: npt.NDArray[np.int64]) -> UInt8Array:
    """The pictures at some positions, (P, C, H, W) uint8; only the shards that hold them are read."""
    images = np.empty((len(positions), *image_set.info.image_shape), dtype=np.uint8)
    start = 0
    for entry in image_set.manifest.shards:
        here = (positions >= start) & (positions < start + entry.num_images)
        if here.any():
            images[here] = image_set.read_shard(entry).images[positions[here] - start]
        start += entry.num_images
    return images
