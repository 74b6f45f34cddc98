"""A generator in closed form: one Gaussian per class, whose optimal denoiser is known exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from sio_ray.errors import ImageSetError
from sio_ray.imageset.pictures import UInt8Array

#: Variance of rounding a pixel in [-1, 1] to one of 256 grey levels; what is left of a class of equal pictures.
ROUNDING_VARIANCE = (2 / 255) ** 2 / 12

FloatArray = npt.NDArray[np.float64]


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """F of the optimal denoiser of N(mu_c, sum_k e_ck v_ck v_ck^T + s_c^2 I), for each class c; takes a UNet's place.

    D(x; sigma) = mu + Sigma (Sigma + sigma^2 I)^-1 (x - mu), without a matrix of pixels by pixels: along v_k the factor
    is (e_k + s^2) / (e_k + s^2 + sigma^2), elsewhere s^2 / (s^2 + sigma^2). F is written so that EDM's c_skip and c_out
    give D without a difference of near numbers. It is computed in float32 whatever the weights' type.

    Args:
        sample_size: height and width.
        in_channels: of the pictures.
        num_class_embeds: classes and the null class, which is the last.
        rank: principal components k of each class.
        sigma_data: what the preconditioning is done with.

    Source: probabilistic PCA, Tipping and Bishop, 1999.
    """

    @register_to_config
    def __init__(
        self, sample_size: tuple[int, int], in_channels: int, num_class_embeds: int, rank: int, sigma_data: float
    ) -> None:
        super().__init__()
        num_pixels = in_channels * sample_size[0] * sample_size[1]
        shapes = {
            "mean": (num_class_embeds, num_pixels),
            "noise_variance": (num_class_embeds,),  # s^2
            "component_variance": (num_class_embeds, rank),  # e
            "components": (num_class_embeds, num_pixels, rank),  # v, orthonormal; 0 where e is
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        """F of each picture.

        Args:
            sample: (B, C, H, W) c_in x.
            timestep: () or (B,) c_noise = ln(sigma) / 4.
            class_labels: (B,) int64; the number of classes is the null class.
        """
        sigma_data = self.config.sigma_data
        sigma = (4 * timestep.float()).exp().reshape(-1, 1)
        norm = (sigma**2 + sigma_data**2).sqrt()
        s2 = self.noise_variance[class_labels].float()[:, None]
        scaled, mean = sample.flatten(1).float(), self.mean[class_labels].float()
        common = 1 / (sigma_data * (s2 + sigma**2))
        F = torch.addcmul(scaled * (sigma * (s2 - sigma_data**2) * common), mean, sigma * norm * common)
        if self.config.rank:
            e, v = self.component_variance[class_labels].float(), self.components[class_labels].float()
            weights = sigma * norm * common * e / (e + s2 + sigma**2)
            along = weights * torch.bmm((norm * scaled - mean)[:, None], v)[:, 0]
            F = torch.baddbmm(F[:, :, None], v, along[:, :, None])[:, :, 0]
        return UNet2DOutput(sample=F.reshape(sample.shape).to(sample.dtype))


def fit_gaussian(
    images: UInt8Array, labels: npt.NDArray[np.int64], num_classes: int, rank: int, sigma_data: float
) -> GaussianDenoiser:
    """Fit a Gaussian to each class, by maximum likelihood; the null class has the moments of their mixture.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) in [0, num_classes).
        num_classes: each needs a picture.
        rank: principal components of each class; one with fewer pictures has fewer, the others are 0.
        sigma_data: standard deviation of the pixels in [-1, 1].

    Raises:
        ImageSetError: a class has no picture.
    """
    num_pixels = int(np.prod(images.shape[1:]))
    rank = min(rank, num_pixels - 1)
    model: GaussianDenoiser = GaussianDenoiser(
        tuple(images.shape[2:]), images.shape[1], num_classes + 1, rank, sigma_data
    )
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise ImageSetError(
            f"class {int(np.argmin(counts))} has no picture to fit a Gaussian to; add some, or drop the class."
        )
    shares, means, parts = counts / counts.sum(), np.empty((num_classes, num_pixels)), []
    within = 0.0
    for label, share in enumerate(shares):
        pixels = images[labels == label].reshape(counts[label], num_pixels) / 127.5 - 1
        means[label] = pixels.mean(0)
        rows = (pixels - means[label]) / counts[label] ** 0.5
        e, v, s2 = _probabilistic_pca(rows, rank, float(np.square(rows).sum()))
        _set(model, label, means[label], e, v, s2)
        within += share * (e.sum() + s2 * num_pixels)
        parts.append((share * e)[:, None] ** 0.5 * v.T)
    mean = shares @ means
    between = shares[:, None] ** 0.5 * (means - mean)
    variance = within + float(np.square(between).sum())
    _set(model, num_classes, mean, *_probabilistic_pca(np.concatenate([between, *parts]), rank, variance))
    model.eval()
    return model


def _probabilistic_pca(rows: FloatArray, rank: int, variance: float) -> tuple[FloatArray, FloatArray, float]:
    """Fit to the covariance rows^T rows + an isotropic rest, whose trace is `variance`.

    Returns:
        Variances e (K,) above the noise's, components v (D, K), and the noise's variance s^2, with K <= rank.
    """
    num_rows, num_pixels = rows.shape
    rest = (variance - float(np.square(rows).sum())) / num_pixels
    found = min(rank, num_rows, num_pixels)
    few = num_rows <= num_pixels
    values, vectors = np.empty(0), np.empty((num_rows if few else num_pixels, 0))
    if found:
        # The smaller of the two products has the same eigenvalues, but for zeros.
        gram = rows @ rows.T if few else rows.T @ rows
        values, vectors = scipy.linalg.eigh(gram, subset_by_index=[len(gram) - found, len(gram) - 1])
    kept = values > ROUNDING_VARIANCE
    values, vectors = values[kept], vectors[:, kept]
    v = rows.T @ vectors / values**0.5 if few else vectors
    s2 = max((variance - float(values.sum()) - len(values) * rest) / (num_pixels - len(values)), ROUNDING_VARIANCE)
    return np.maximum(values + rest - s2, 0), v, s2


def _set(model: GaussianDenoiser, label: int, mean: FloatArray, e: FloatArray, v: FloatArray, s2: float) -> None:
    model.mean[label] = torch.from_numpy(mean)
    model.noise_variance[label] = s2
    model.component_variance[label, : len(e)] = torch.from_numpy(e)
    model.components[label, :, : len(e)] = torch.from_numpy(v)
