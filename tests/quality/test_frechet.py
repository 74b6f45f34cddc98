"""The Frechet distance against its closed forms and against the formula with a matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from sio_ray.quality import frechet
from sio_ray.quality.frechet import Gaussian, fit_gaussian, frechet_distance


def draw(count: int, dimension: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator)
    return torch.randn(count, dimension, generator=generator) @ mixing + torch.randn(dimension, generator=generator)


@pytest.mark.parametrize("rows", [3, 16384])
def test_the_gaussian_has_mean_and_unbiased_covariance(monkeypatch, rows):
    monkeypatch.setattr(frechet, "_ROWS_PER_BLOCK", rows)
    features = draw(50, 4, 0) + 1000  # far from 0, where float32 sums would lose digits
    fitted = fit_gaussian(features)
    np.testing.assert_allclose(fitted.mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, np.cov(features.double().numpy().T), rtol=1e-9)


def test_equal_covariances_are_apart_by_their_means_only():
    fitted = fit_gaussian(draw(100, 5, 1))
    moved = Gaussian(fitted.mean + torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0]), fitted.covariance)
    assert frechet_distance(fitted, moved) == pytest.approx(25)
    assert frechet_distance(fitted, fitted) == pytest.approx(0, abs=1e-9)


def test_diagonal_covariances_are_apart_by_their_standard_deviations():
    mean = torch.zeros(3, dtype=torch.float64)
    first, second = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([4.0, 2.0, 3.0]).double()
    distance = frechet_distance(Gaussian(mean, first.square().diag()), Gaussian(mean, second.square().diag()))
    assert distance == pytest.approx(9 + 0 + 9)


def test_it_is_the_formula_with_a_matrix_square_root_and_symmetric():
    first, second = fit_gaussian(draw(200, 8, 2)), fit_gaussian(draw(150, 8, 3))
    root = scipy.linalg.sqrtm(first.covariance.numpy() @ second.covariance.numpy())
    expected = (first.mean - second.mean).square().sum() + torch.trace(first.covariance + second.covariance)
    assert frechet_distance(first, second) == pytest.approx(float(expected) - 2 * np.trace(root).real, rel=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9)


def test_fewer_pictures_than_dimensions_and_dead_units_are_no_trouble():
    features = draw(6, 20, 4)
    features[:, 7:] = 0
    fitted = fit_gaussian(features)
    # The root of the rounding error in float64, which no covariance of rank 5 of 20 can avoid.
    assert frechet_distance(fitted, fitted) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(fitted, fit_gaussian(2 * features)) == pytest.approx(
        float(fitted.mean.square().sum() + fitted.covariance.trace()), rel=1e-6
    )
