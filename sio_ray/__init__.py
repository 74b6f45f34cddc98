"""SIO on Ray: classifiers trained on real and synthetic in-distribution images detect OOD inputs better.

The names below are for people with a training loop of their own; they need no Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sio_ray.classifier.batch import MixedBatch
    from sio_ray.classifier.feed import MixedBatches, MixedBatchSampler
    from sio_ray.classifier.objective import sample_weights, sio_loss
    from sio_ray.imageset import ImageArrays, ImageSet, ImageSetInfo, write_image_set

__version__ = "0.1.0"

__all__ = [
    "ImageArrays",
    "ImageSet",
    "ImageSetInfo",
    "MixedBatch",
    "MixedBatchSampler",
    "MixedBatches",
    "sample_weights",
    "sio_loss",
    "write_image_set",
]

_HOMES = {
    "ImageArrays": "sio_ray.imageset",
    "ImageSet": "sio_ray.imageset",
    "ImageSetInfo": "sio_ray.imageset",
    "MixedBatch": "sio_ray.classifier.batch",
    "MixedBatchSampler": "sio_ray.classifier.feed",
    "MixedBatches": "sio_ray.classifier.feed",
    "sample_weights": "sio_ray.classifier.objective",
    "sio_loss": "sio_ray.classifier.objective",
    "write_image_set": "sio_ray.imageset",
}


def __getattr__(name: str) -> Any:
    # Looked up on use: `sio-ray --help` should not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sio_ray' has no attribute {name!r}")
