"""What detectors read: the outputs of one network for one image set, and its last layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sio_ray.errors import EvaluationError


@dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """All that a network says of the N images of one set; row i of every tensor is the same image.

    Attributes:
        features: (N, D) float32, the input of the last layer.
        logits: (N, C) float32, before any softmax.
        labels: (N,) int64, in [0, C), or -1 where the set is OOD.
        image_ids: (N,) int64, of the image set.
        probes: name of a probe to what it read, (N, ...) float32; empty where no detector needs one.

    Raises:
        EvaluationError: the tensors do not have the shapes above, or N is 0.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    image_ids: Tensor
    probes: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_images = len(self.image_ids)
        if num_images == 0:
            raise EvaluationError("NetworkOutputs must hold at least one image, got 0; check the image set.")
        dims = {"features": 2, "logits": 2, "labels": 1, "image_ids": 1}
        tensors = {name: getattr(self, name) for name in dims}
        for name, tensor in {**tensors, **{f"probes[{key!r}]": value for key, value in self.probes.items()}}.items():
            dim = dims.get(name, tensor.ndim)
            if tensor.ndim != dim or len(tensor) != num_images:
                raise EvaluationError(
                    f"NetworkOutputs.{name} must have {dim} dimension(s) and {num_images} rows, one per image_id, "
                    f"got shape {tuple(tensor.shape)}; extract the outputs of the whole set again."
                )

    def __len__(self) -> int:
        return len(self.image_ids)

    def probe(self, name: str, *, detector: str) -> Tensor:
        """What a probe read.

        Raises:
            EvaluationError: it was not extracted.
        """
        if name not in self.probes:
            raise EvaluationError(
                f"NetworkOutputs.probes must hold {name!r} for detector {detector}, got {sorted(self.probes)}; "
                f"extract the outputs with {detector} among the detectors."
            )
        return self.probes[name]


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The linear layer that makes logits of features: `logits = features @ weight.T + bias`.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
    """

    weight: Tensor
    bias: Tensor
