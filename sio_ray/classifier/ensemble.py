"""A deep ensemble: several classifiers that are scored as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sio_ray.classifier.model import Architecture, Classifier, no_last_layer
from sio_ray.errors import CheckpointError


class Ensemble(nn.Module):
    """Classifiers of the same classes and pictures; used as a `Classifier` is.

    Its logits are z = log(mean_m softmax(z_m)) + mean_m logsumexp(z_m). So the softmax of z is the mean of the members'
    softmax, as the paper predicts, and the logsumexp of z, the negative energy, is the mean of the members': every
    detector that reads logits alone works. For one member z = z_1.

    Args:
        members: at least one.

    Attributes:
        architecture: of the first member, for its classes and pictures.
        num_features: of all members.

    Raises:
        CheckpointError: no member, or members of different classes or pictures.

    Source: deep ensembles, arXiv:1612.01474.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        if not members:
            raise CheckpointError("an ensemble must have at least one member, got none; name its checkpoints.")
        self._members = list(members)
        self.members = nn.ModuleList(members)  # so that they move and are counted
        self.architecture: Architecture = members[0].architecture
        self._sizes = [member.num_features for member in members]
        for number, member in enumerate(members[1:], start=2):
            first, other = self.architecture, member.architecture
            if (first.class_names, first.image_shape) != (other.class_names, other.image_shape):
                raise CheckpointError(
                    f"member {number} of the ensemble knows {len(other.class_names)} classes of pictures "
                    f"{other.image_shape}, the first {len(first.class_names)} of {first.image_shape}, or other names; "
                    "give members that were trained on the same set."
                )

    @property
    def num_features(self) -> int:
        """Sum of the members'."""
        return sum(self._sizes)

    @property
    def last_layer(self) -> nn.Linear:
        """There is none.

        Raises:
            EvaluationError: always.
        """
        raise no_last_layer(f"an ensemble of {len(self._sizes)}")

    def features(self, images: Tensor) -> Tensor:
        """The members' features side by side, (B, num_features), of (B, C, H, W) in [0, 1]."""
        return torch.cat([member.features(images) for member in self._members], 1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits, (B, num_classes), of (B, num_features)."""
        parts = features.split(self._sizes, 1)
        of_members = torch.stack([member.logits(part) for member, part in zip(self._members, parts, strict=True)])
        log_mean = of_members.log_softmax(2).logsumexp(0) - math.log(len(self._sizes))
        return log_mean + of_members.logsumexp(2).mean(0)[:, None]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of (B, C, H, W) in [0, 1]."""
        return self.logits(self.features(images))
