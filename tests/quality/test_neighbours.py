"""Precision, recall, density, coverage and spread against brute force in NumPy and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from sio_ray.quality import neighbours
from sio_ray.quality.neighbours import (
    Neighbourhood,
    kth_neighbour_distance,
    mean_pairwise_distance,
    precision_recall_density_coverage,
)


def draw(count: int, seed: int, *, scale: float = 1.0, dimension: int = 6) -> torch.Tensor:
    return scale * torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def brute_force(synthetic: torch.Tensor, reference: torch.Tensor, k: int) -> Neighbourhood:
    """The definitions of the papers, picture by picture."""
    y, x = synthetic.double().numpy(), reference.double().numpy()

    def radius(points: np.ndarray, i: int) -> float:
        others = np.delete(points, i, axis=0)
        return float(np.sort(np.linalg.norm(others - points[i], axis=1))[k - 1])

    real_radii = [radius(x, i) for i in range(len(x))]
    synthetic_radii = [radius(y, j) for j in range(len(y))]
    inside = [[np.linalg.norm(y[j] - x[i]) < real_radii[i] for j in range(len(y))] for i in range(len(x))]
    inside_synthetic = [
        [np.linalg.norm(y[j] - x[i]) < synthetic_radii[j] for j in range(len(y))] for i in range(len(x))
    ]
    return Neighbourhood(
        precision=np.mean([any(inside[i][j] for i in range(len(x))) for j in range(len(y))]),
        recall=np.mean([any(row) for row in inside_synthetic]),
        density=sum(map(sum, inside)) / (k * len(y)),
        coverage=np.mean([any(row) for row in inside]),
    )


@pytest.mark.parametrize("blocks", [(1024, 16384), (7, 5)])
@pytest.mark.parametrize("k", [1, 5])
def test_it_is_brute_force_however_the_work_is_cut(monkeypatch, blocks, k):
    monkeypatch.setattr(neighbours, "_ROWS_PER_BLOCK", blocks[0])
    monkeypatch.setattr(neighbours, "_COLUMNS_PER_BLOCK", blocks[1])
    synthetic, reference = draw(40, 0, scale=0.8), draw(31, 1)
    synthetic[:8] += 30
    reference[:8] -= 30
    found = precision_recall_density_coverage(synthetic, reference, k=k)
    expected = brute_force(synthetic, reference, k)
    assert vars(found) == pytest.approx(vars(expected), rel=1e-12)
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1
    assert 0 < found.coverage < 1


def test_a_set_in_itself_is_all_precise_recalled_and_covered_and_as_dense():
    features = draw(60, 2)
    found = precision_recall_density_coverage(features, features.clone(), k=5)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # The k-th neighbour lies on the ball's surface: rounding decides whether it is counted.
    assert 1 <= found.density <= 1.2


def test_sets_far_apart_share_nothing():
    found = precision_recall_density_coverage(draw(40, 3), draw(50, 4) + 1e3)
    assert found == Neighbourhood(0, 0, 0, 0)


def test_one_distribution_twice_has_density_1_and_the_coverage_that_is_expected():
    count, k = 600, 5
    found = precision_recall_density_coverage(draw(count, 5), draw(count, 6), k=k)
    # Naeem et al., lemma 2: none of the k nearest of 2N - 1 points is synthetic.
    uncovered = np.prod([(count - 1 - i) / (2 * count - 1 - i) for i in range(k)])
    assert found.coverage == pytest.approx(1 - uncovered, abs=0.02)
    assert found.density == pytest.approx(1, abs=0.1)


def test_a_collapsed_set_is_precise_and_recalls_nothing():
    reference = draw(200, 7)
    collapsed = reference[:1] + 1e-3 * draw(100, 8)
    found = precision_recall_density_coverage(collapsed, reference)
    assert found.precision == 1
    assert found.recall <= 1 / 200
    assert found.coverage < 0.2


@pytest.mark.parametrize("k", [1, 4])
def test_the_radius_leaves_the_picture_itself_out_but_not_its_duplicates(k):
    features = draw(30, 9)
    features[3] = features[8]
    distances = cdist(features.double(), features.double())
    np.fill_diagonal(distances, np.inf)
    expected = np.sort(distances, axis=1)[:, k - 1]
    np.testing.assert_allclose(kth_neighbour_distance(features, k), expected, rtol=1e-9, atol=1e-6)


def test_progress_counts_every_row_once():
    rows: list[int] = []
    precision_recall_density_coverage(draw(40, 10), draw(30, 11), advance=rows.append)
    assert sum(rows) == 40 + 2 * 30


@pytest.mark.parametrize("blocks", [(1024, 16384), (7, 5)])
def test_the_mean_pairwise_distance_is_that_of_all_pairs(monkeypatch, blocks):
    monkeypatch.setattr(neighbours, "_ROWS_PER_BLOCK", blocks[0])
    monkeypatch.setattr(neighbours, "_COLUMNS_PER_BLOCK", blocks[1])
    features = draw(33, 12)
    assert mean_pairwise_distance(features) == pytest.approx(pdist(features.double().numpy()).mean(), rel=1e-9)
    assert mean_pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]])) == pytest.approx(5)
