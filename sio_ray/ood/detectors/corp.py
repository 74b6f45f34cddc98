"""CoRP: what the principal axes of random Fourier features of the directions of training features leave."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sio_ray.ood.detectors.cop import CoP, CoPOptions


class CoRPOptions(CoPOptions):
    """Of CoRP.

    Attributes:
        explained_variance: as of CoP; in the authors' code 0.8 for CIFAR-10 and 0.5 for ImageNet.
        gamma: of the Gaussian kernel exp(-gamma ||x - y||^2); in the authors' code 2 for CIFAR-10 and 3 for ImageNet.
        num_random: M, random features for each feature; in the authors' code 4 for CIFAR-10 and 2 for ImageNet.
    """

    explained_variance: float = Field(0.8, gt=0, lt=1)
    gamma: float = Field(2.0, gt=0)
    num_random: float = Field(4.0, gt=0)


class CoRP(CoP):
    """Scores as CoP, with f(x) = sqrt(2 / P) cos(w_p.x / ||x|| + u_p) for p = 1, ..., P = M D.

    PCA under a Gaussian kernel on the unit sphere: w_p is normal with variance 2 gamma, u_p uniform on [0, 2 pi), both
    drawn with a fixed seed, where the authors draw them anew in every run. Memory: 40 P^2 bytes and four blocks of M
    times 32 MiB; 3 GiB for D = 2048 and M = 4.
    """

    name = "corp"
    title = "CoRP"
    cost = "fit N P^2, score M P^2, with P = 4 D"
    Options = CoRPOptions
    options: CoRPOptions

    def mapping(self, num_features: int) -> Callable[[Tensor], Tensor]:
        """See `CoP.mapping`."""
        generator = torch.Generator().manual_seed(0)
        num_random = max(1, round(self.options.num_random * num_features))
        weights = torch.randn(num_features, num_random, generator=generator, dtype=torch.float64)
        weights = weights.mul_(math.sqrt(2 * self.options.gamma)).to(self.device)
        phases = (2 * math.pi * torch.rand(num_random, generator=generator, dtype=torch.float64)).to(self.device)
        return lambda x: math.sqrt(2 / num_random) * (F.normalize(x) @ weights + phases).cos()
