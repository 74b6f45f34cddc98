"""The closed form against dense float64 algebra, scikit-learn's PCA, and the moments of what every sampler draws."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler
from sklearn.decomposition import PCA
from torch import Tensor

from sio_ray.diffusion.edm import precondition
from sio_ray.diffusion.gaussian import ROUNDING_VARIANCE, GaussianDenoiser, fit_gaussian
from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.schedulers import SCHEDULERS
from sio_ray.errors import ImageSetError

SIGMA_DATA = 0.4
SHAPES = [(1, 3, 5), (3, 4, 2)]


def pictures_of(shape: tuple[int, int, int], counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pictures with a mean and two directions of their own per class, and their labels, shuffled."""
    rng, num_pixels = np.random.default_rng(3), math.prod(shape)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    directions = rng.normal(size=(len(counts), 2, num_pixels)) * 0.1
    weights = rng.normal(size=(len(labels), 2))
    x = 0.2 * (labels[:, None] - 1) + np.einsum("nk,nkd->nd", weights, directions[labels])
    x += 0.05 * rng.normal(size=x.shape)
    return ((np.clip(x, -1, 1) + 1) * 127.5).round().astype(np.uint8).reshape(-1, *shape), labels


@functools.cache
def fitted(shape: tuple[int, int, int] = SHAPES[0], rank: int = 2) -> GaussianDenoiser:
    return fit_gaussian(*pictures_of(shape, (200, 150, 250)), 3, rank, SIGMA_DATA)


def moments(model: GaussianDenoiser, label: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a class, dense, float64."""
    v, e = model.components[label].double(), model.component_variance[label].double()
    return model.mean[label].double(), v * e @ v.T + model.noise_variance[label].double() * torch.eye(len(v))


def optimal_denoiser(model: GaussianDenoiser, label: int, x: Tensor, sigma: float) -> Tensor:
    mean, covariance = moments(model, label)
    noisy = covariance + sigma**2 * torch.eye(len(mean))
    return mean + torch.linalg.solve(noisy, covariance, left=False) @ (x - mean)


def pipeline_of(model: GaussianDenoiser) -> ClassConditionalEDMPipeline:
    pipeline = ClassConditionalEDMPipeline(model, EDMDPMSolverMultistepScheduler(sigma_data=SIGMA_DATA))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize("rank", [0, 1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_preconditioned_it_is_the_optimal_denoiser_of_every_class_and_of_the_null_class(shape, rank):
    model = fitted(shape, rank)
    sigmas = torch.tensor([0.002, 0.05, 0.4, 3.0, 80.0])
    for label in range(4):
        mean, covariance = moments(model, label)
        noise = torch.randn(2, len(sigmas), len(mean), generator=torch.Generator().manual_seed(label)).double()
        clean = mean + noise[0] @ torch.linalg.cholesky(covariance).T
        x = (clean + sigmas.double()[:, None] * noise[1]).float()
        c = precondition(sigmas, SIGMA_DATA)
        pictures = x.reshape(-1, *shape)
        F = model(c.c_in * pictures, c.c_noise, class_labels=torch.full((len(sigmas),), label)).sample
        D = (c.c_skip * pictures + c.c_out * F).flatten(1)
        expected = [optimal_denoiser(model, label, x[i].double(), float(sigma)) for i, sigma in enumerate(sigmas)]
        torch.testing.assert_close(D.double(), torch.stack(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize("rank", [0, 1, 3, 14])
def test_a_class_is_fitted_as_probabilistic_pca_does(rank):
    images, labels = pictures_of(SHAPES[0], (200, 150, 250))
    model = fit_gaussian(images, labels, 3, rank, SIGMA_DATA)
    for label in range(3):
        pixels = images[labels == label].reshape(-1, 15) / 127.5 - 1
        mean, covariance = moments(model, label)
        np.testing.assert_allclose(mean, pixels.mean(0), atol=1e-6)
        known = PCA(rank, svd_solver="full").fit(pixels).get_covariance() if rank else np.eye(15) * pixels.var(0).mean()
        known *= (len(pixels) - 1) / len(pixels) if rank else 1  # scikit-learn's is the unbiased estimate
        np.testing.assert_allclose(covariance, known, atol=1e-6)


def test_the_null_class_has_the_moments_of_the_mixture():
    counts = np.array([200, 150, 250])
    model, shares = fitted(rank=14), counts / counts.sum()
    parts = [moments(model, label) for label in range(3)]
    mean = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
    expected = sum(
        share * (covariance + torch.outer(part - mean, part - mean))
        for share, (part, covariance) in zip(shares, parts, strict=True)
    )
    found_mean, found = moments(model, 3)
    torch.testing.assert_close(found_mean, mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    for rank in (0, 2):
        _, low = moments(fitted(rank=rank), 3)
        assert float(low.trace()) == pytest.approx(float(expected.trace()), rel=1e-4), "whatever the rank"


def test_a_class_with_fewer_pictures_than_the_rank_has_fewer_components_and_one_picture_has_none():
    model = fit_gaussian(*pictures_of((1, 3, 5), (3, 1, 40)), 3, 6, SIGMA_DATA)
    assert (model.component_variance[0] > 0).sum() == 2, "three points span a plane"
    assert (model.component_variance[1] == 0).all()
    assert float(model.noise_variance[1]) == pytest.approx(ROUNDING_VARIANCE)
    gram = model.components.transpose(1, 2) @ model.components
    used = (model.components != 0).any(1).float()
    torch.testing.assert_close(gram, torch.diag_embed(used), atol=1e-5, rtol=0)
    pictures = pipeline_of(model)([0, 1, 2], generators(3), 6)
    assert pictures.isfinite().all()
    torch.testing.assert_close(pictures[1].flatten(), model.mean[1], atol=5 * ROUNDING_VARIANCE**0.5, rtol=0)


def test_more_components_than_pixels_are_cut_off_and_a_class_without_pictures_is_an_error():
    images, labels = pictures_of((1, 2, 2), (20, 20))
    assert fit_gaussian(images, labels, 2, 99, SIGMA_DATA).config.rank == 3
    with pytest.raises(ImageSetError) as error:
        fit_gaussian(images, labels, 3, 1, SIGMA_DATA)
    assert str(error.value) == "class 2 has no picture to fit a Gaussian to; add some, or drop the class."


# Steps so many that the sampler's own error is below a tenth of that of so few draws.
STEPS = {"edm_euler": 300, "ddim": 300}
NUM_DRAWS = 1500


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(("shape", "rank"), [(SHAPES[0], 2), (SHAPES[1], 0)])
def test_every_sampler_draws_each_class_with_its_mean_and_covariance(name, shape, rank):
    model = fitted(shape, rank)
    labels = np.arange(3 * NUM_DRAWS) % 3
    drawn = pipeline_of(model)(labels, generators(len(labels)), STEPS.get(name, 60), scheduler=name, clamp=False)
    for label in range(3):
        mean, covariance = moments(model, label)
        x = drawn[labels == label].flatten(1).double()
        # Five standard errors: of a mean sqrt(S_ii / n), of a covariance sqrt((S_ii S_jj + S_ij^2) / n).
        variance = covariance.diagonal()
        assert ((x.mean(0) - mean).abs() < 5 * (variance / NUM_DRAWS).sqrt()).all()
        error = ((torch.outer(variance, variance) + covariance**2) / NUM_DRAWS).sqrt()
        assert ((torch.cov(x.T) - covariance).abs() < 5 * error).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_follows_the_known_probability_flow(name):
    model, labels = fitted(rank=2), [0, 1, 2, 3]
    drawn = pipeline_of(model)(labels, generators(4), STEPS.get(name, 60), scheduler=name, clamp=False).flatten(1)
    for row, label in enumerate(labels):
        start = torch.randn(15, generator=generators(4)[row]).double() * math.hypot(80, 1)
        mean, covariance = moments(model, label)
        values, vectors = torch.linalg.eigh(covariance)
        expected = mean + vectors @ ((values / (values + 80**2)).sqrt() * (vectors.T @ (start - mean)))
        torch.testing.assert_close(drawn[row].double(), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("interval", [None, (0.2, 4.0), (0.0, 0.5)])
def test_guidance_mixes_the_denoised_pictures_and_only_within_its_interval(interval):
    model, labels, scale, num_steps = fitted(rank=2), [2, 0], 2.5, 12
    low, high = interval or (0.0, math.inf)
    drawn = pipeline_of(model)(
        labels, generators(2), num_steps, scale, guidance_interval=interval, scheduler="edm_euler", clamp=False
    )
    sigmas = (np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), num_steps) ** 7).tolist()
    for row, label in enumerate(labels):
        x = torch.randn(15, generator=generators(2)[row]).double() * math.hypot(80, 1)
        for sigma, following in itertools.pairwise([*sigmas, 0.0]):
            D = optimal_denoiser(model, label, x, sigma)
            if low < sigma <= high:
                unconditional = optimal_denoiser(model, 3, x, sigma)
                D = unconditional + scale * (D - unconditional)
            x = x + (following - sigma) * (x - D) / sigma
        torch.testing.assert_close(drawn[row].flatten().double(), x, atol=1e-4, rtol=0)


def test_weights_in_bfloat16_give_nearly_the_same_pictures_and_saved_ones_identical_ones(tmp_path):
    model = fitted(rank=2)
    exact = pipeline_of(model)([0, 1, 2], generators(3), 12)
    pipeline_of(model).save_pretrained(str(tmp_path), safe_serialization=True)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    folder = str(tmp_path / "unet")
    assert torch.equal(pipeline_of(GaussianDenoiser.from_pretrained(folder))([0, 1, 2], generators(3), 12), exact)
    rounded = pipeline_of(GaussianDenoiser.from_pretrained(folder, dtype=torch.bfloat16))([0, 1, 2], generators(3), 12)
    torch.testing.assert_close(rounded, exact, atol=0.03, rtol=0)
    assert not torch.equal(rounded, exact)
