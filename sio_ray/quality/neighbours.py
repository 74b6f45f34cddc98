"""Fidelity and variety from distances between features: precision, recall, density, coverage, spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: Pictures that meet in one block of distances: 128 MiB of float64, whatever the sizes of the sets.
_ROWS_PER_BLOCK = 1024
_COLUMNS_PER_BLOCK = 16384

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Neighbourhood:
    """How synthetic features lie among real ones.

    Attributes:
        precision: share of synthetic pictures within the real manifold, in [0, 1]: fidelity.
        recall: share of real pictures within the synthetic manifold, in [0, 1]: variety.
        density: how many real balls hold a synthetic picture, over how many k is; about 1 where the distributions are
            equal, more where synthetic pictures crowd where real ones are dense. Unlike precision, one real outlier
            with a large ball does not make it large.
        coverage: share of real pictures with a synthetic one in their ball, in [0, 1]: variety, and unlike recall not
            raised by synthetic outliers.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(
    synthetic: Tensor, reference: Tensor, *, k: int = 5, device: str = "cpu", advance: Advance = lambda rows: None
) -> Neighbourhood:
    """Compare two sets of features by their k nearest neighbours.

    A ball B_k(x) around a picture has as radius the Euclidean distance to the k-th nearest *other* picture of its own
    set; a manifold is the union of the balls of a set.

    - precision = mean over synthetic y of [y in some B_k(x) of a real x], recall = mean over real x of [x in some
      B_k(y) of a synthetic y]; balls are closed, as in the paper.
    - density = (1 / kN) * number of pairs with y in B_k(x), coverage = mean over real x of [some y in B_k(x)]; balls
      are open, as in the authors' code, so that the density of a set in itself is 1.

    In float64: a well-trained network puts neighbours so close together that float32 rounds their distances to noise.
    Memory is that of one block; time grows with (N + M)^2 D.

    Args:
        synthetic: (N, D) floating point, N greater than k.
        reference: (M, D) floating point, M greater than k.
        k: 5 in Naeem et al.; Kynkaanniemi et al. use 3.
        device: where distances are computed.
        advance: is told every number of rows that are done; N + 2 M in all.

    Source: precision and recall: Kynkaanniemi et al. 2019, arXiv:1904.06991. Density and coverage: Naeem et al. 2020,
        arXiv:2002.09797.
    """
    num_synthetic, num_reference = len(synthetic), len(reference)
    synthetic_radii = kth_neighbour_distance(synthetic, k, device=device, advance=advance)
    reference_radii = kth_neighbour_distance(reference, k, device=device, advance=advance)
    precise = torch.zeros(num_synthetic, dtype=torch.bool, device=device)
    recalled = torch.zeros(num_reference, dtype=torch.bool, device=device)
    covered = torch.zeros(num_reference, dtype=torch.bool, device=device)
    num_inside = 0
    for rows, columns, distances in _blocks(reference, synthetic, device, advance):
        radii = reference_radii[rows, None]
        precise[columns] |= (distances <= radii).any(0)
        recalled[rows] |= (distances <= synthetic_radii[columns]).any(1)
        inside = distances < radii
        covered[rows] |= inside.any(1)
        num_inside += int(inside.sum())
    return Neighbourhood(
        precision=int(precise.sum()) / num_synthetic,
        recall=int(recalled.sum()) / num_reference,
        density=num_inside / (k * num_synthetic),
        coverage=int(covered.sum()) / num_reference,
    )


def kth_neighbour_distance(
    features: Tensor, k: int, *, device: str = "cpu", advance: Advance = lambda rows: None
) -> Tensor:
    """Distance of each feature to its k-th nearest other one.

    Args:
        features: (N, D) floating point, N greater than k.
        k: at least 1.
        device: where distances are computed.
        advance: is told every number of rows that are done; N in all.

    Returns:
        (N,) float64, on the device.
    """
    # One more than k: each is its own nearest.
    closest = torch.full((len(features), k + 1), torch.inf, dtype=torch.float64, device=device)
    for rows, _, distances in _blocks(features, features, device, advance):
        closest[rows] = torch.cat([closest[rows], distances], dim=1).topk(k + 1, largest=False).values
    return closest.amax(1)


def mean_pairwise_distance(features: Tensor, *, device: str = "cpu") -> float:
    """Mean Euclidean distance over all pairs of different pictures, exact, so nothing is drawn.

    Args:
        features: (N, D) floating point, N at least 2.
        device: where distances are computed.
    """
    total = sum(float(distances.sum()) for *_, distances in _blocks(features, features, device))
    return total / (len(features) * (len(features) - 1))


def _blocks(
    rows: Tensor, columns: Tensor, device: str, advance: Advance = lambda rows: None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Distances of all pairs, block by block: which rows, which columns, (R, C) float64."""
    for row in range(0, len(rows), _ROWS_PER_BLOCK):
        left = rows[row : row + _ROWS_PER_BLOCK].to(device, torch.float64)
        for column in range(0, len(columns), _COLUMNS_PER_BLOCK):
            right = columns[column : column + _COLUMNS_PER_BLOCK].to(device, torch.float64)
            yield slice(row, row + len(left)), slice(column, column + len(right)), torch.cdist(left, right)
        advance(len(left))
