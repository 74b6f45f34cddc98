"""Frechet distance between the Gaussians that fit two sets of features best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Rows that are float64 at one time.
_ROWS_PER_BLOCK = 16384


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, symmetric, perhaps singular.
    """

    mean: Tensor
    covariance: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """Mean and unbiased covariance, in float64 block by block.

    Args:
        features: (N, D) floating point, N at least 2.
    """
    mean = features.mean(0, dtype=torch.float64)
    covariance = mean.new_zeros(len(mean), len(mean))
    for block in features.split(_ROWS_PER_BLOCK):
        centred = block.double() - mean
        covariance.addmm_(centred.T, centred)
    return Gaussian(mean, covariance / (len(features) - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Frechet (2-Wasserstein) distance, which is what FID is.

    ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the roots of the eigenvalues of
    C1^(1/2) C2 C1^(1/2): that matrix is symmetric and has the eigenvalues of C1 C2, so nothing complex arises, and a
    singular covariance (dead units, few pictures) needs no ridge. A matrix square root of C1 C2 itself may not exist.

    Args:
        first: of dimension D.
        second: of dimension D.

    Returns:
        At least 0, in squared units of the features: numbers of two classifiers cannot be compared.

    Source: Heusel et al. 2017, arXiv:1706.08500.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    squared = (first.mean - second.mean).square().sum()
    distance = squared + first.covariance.trace() + second.covariance.trace() - 2 * trace_of_root
    return max(float(distance), 0.0)
