"""What detectors read: the outputs of one network for one image set, and its last layer."""

from __future__ import annotations

from dataclasses import dataclass

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
        perturbed_logits: (N, C) float32, logits of the input after ODIN's perturbation; None where not asked for.

    Raises:
        EvaluationError: the tensors do not have the shapes above, or N is 0.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    image_ids: Tensor
    perturbed_logits: Tensor | None = None

    def __post_init__(self) -> None:
        num_images = len(self.image_ids)
        if num_images == 0:
            raise EvaluationError("NetworkOutputs must hold at least one image, got 0; check the image set.")
        dims = {"features": 2, "logits": 2, "labels": 1, "image_ids": 1, "perturbed_logits": 2}
        for name, dim in dims.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and (tensor.ndim != dim or len(tensor) != num_images):
                raise EvaluationError(
                    f"NetworkOutputs.{name} must have {dim} dimension(s) and {num_images} rows, one per image_id, "
                    f"got shape {tuple(tensor.shape)}; extract the outputs of the whole set again."
                )
        if self.perturbed_logits is not None and self.perturbed_logits.shape != self.logits.shape:
            raise EvaluationError(
                f"NetworkOutputs.perturbed_logits must have the shape of logits, {tuple(self.logits.shape)}, "
                f"got {tuple(self.perturbed_logits.shape)}; extract both with the same network."
            )

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The linear layer that makes logits of features: `logits = features @ weight.T + bias`.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
    """

    weight: Tensor
    bias: Tensor
