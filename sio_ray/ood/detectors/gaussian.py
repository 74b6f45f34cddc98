"""Class means and covariances of features, and Mahalanobis distances to many means as one matrix product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.blocks import blocks
from sio_ray.ood.detectors.classes import check_classes
from sio_ray.ood.outputs import NetworkOutputs


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """First and second moments of features by class, in float64; every class has an image.

    Attributes:
        counts: (C,).
        means: (C, D).
        within: (D, D), mean of (x - mean of its class) (x - mean of its class)^T.
    """

    counts: Tensor
    means: Tensor
    within: Tensor

    @classmethod
    def of(
        cls,
        train: NetworkOutputs,
        *,
        detector: str,
        device: torch.device,
        mapping: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Self:
        """Two passes over the features of a training set, so that no digit is lost to a difference.

        Args:
            train: of the N images of all classes.
            detector: whose error it is.
            device: where the products run, and the moments are kept.
            mapping: (B, D) float64 features to what is described, (B, D).

        Raises:
            EvaluationError: a label out of range, or a class without an image.
        """
        check_classes(train, detector=detector)
        counts, means = class_means(train.features, train.labels, train.logits.shape[1], device, mapping)
        within = means.new_zeros(means.shape[1], means.shape[1])
        for features, labels in blocks(train.features, train.labels, device=device):
            residual = mapping(features) - means[labels]
            within.addmm_(residual.T, residual)
        return cls(counts, means, within / len(train))

    def background(self) -> tuple[Tensor, Tensor]:
        """Mean (1, D) and covariance (D, D) of all features: that within classes, and that of the class means."""
        shares = self.counts[:, None] / self.counts.sum()
        mean = (shares * self.means).sum(dim=0, keepdim=True)
        between = self.means - mean
        return mean, self.within + between.T @ (shares * between)


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Squared distances (x - mean)^T S^+ (x - mean) to G means under one covariance S.

    Features are brought to where S is the identity: z = (x - centre) A with S^+ = A A^T. There the distances are
    ||z||^2 - 2 z.m + ||m||^2; the centre, the mean of the means, keeps the terms of the size of the distances.

    S^+ is the pseudo-inverse without eigenvalues up to D 2^-23 of the largest. That is what scipy's `pinvh` does for
    OpenOOD's float32 covariance; what is smaller is the rounding of float32 features, or a dead unit.

    Attributes:
        centre: (D,) float64.
        whitening: A, (D, r) float64.
        means: (G, r) float64, whitened.
    """

    centre: Tensor
    whitening: Tensor
    means: Tensor

    @classmethod
    def of(cls, means: Tensor, covariance: Tensor, *, detector: str) -> Self:
        """Of (G, D) means and a (D, D) covariance, float64.

        Raises:
            EvaluationError: the covariance is zero.
        """
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        kept = eigenvalues > eigenvalues[-1].clamp(min=0) * len(covariance) * torch.finfo(torch.float32).eps
        if not kept.any():
            raise EvaluationError(
                f"detector {detector} must have training features that vary, got the same ones for every image of a "
                "class; check the checkpoint."
            )
        whitening = eigenvectors[:, kept] * eigenvalues[kept].rsqrt()
        centre = means.mean(dim=0)
        return cls(centre, whitening, (means - centre) @ whitening)

    def squared_distances(self, features: Tensor) -> Tensor:
        """(B, G) of (B, D) float64 features."""
        z = (features - self.centre) @ self.whitening
        lengths = z.square().sum(dim=1, keepdim=True) + self.means.square().sum(dim=1)
        return lengths.addmm_(z, self.means.T, alpha=-2)

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance to the nearest mean, (B,), and half its gradient by the features, (B, D); float64.

        Args:
            features: (B, D) on any device.
        """
        centre, whitening, means = (each.to(features.device) for each in (self.centre, self.whitening, self.means))
        z = (features.double() - centre) @ whitening
        # ||z||^2 is the same for all means.
        offset = z - means[(means.square().sum(1) - 2 * z @ means.T).argmin(1)]
        return offset.square().sum(1), offset @ whitening.T


def class_means(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    device: torch.device,
    mapping: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Tensor, Tensor]:
    """Counts (C,) and means (C, D) by class, float64, from one pass.

    Args:
        features: (N, D), on the CPU.
        labels: (N,), in [-1, C); -1 leaves a row out.
        num_classes: C.
        device: where they are summed, and come back on.
        mapping: (B, D) float64 features to what is summed, (B, D).
    """
    counts = torch.bincount(labels + 1, minlength=num_classes + 1)[1:].to(device, torch.float64)
    # The first row takes what is left out.
    sums = counts.new_zeros(num_classes + 1, features.shape[1])
    for rows, classes in blocks(features, labels, device=device):
        sums.index_add_(0, classes + 1, mapping(rows))
    return counts, sums[1:] / counts[:, None].clamp(min=1)
