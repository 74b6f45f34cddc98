"""The SIO objective.

    L = alpha * mean over real of l(x, y) + (1 - alpha) * mean over synthetic of l(x, y)

(arXiv:2303.14531), with alpha called `real_weight`, for any per-sample loss l. It is written as one weight per sample,
alpha / num_real or (1 - alpha) / num_synthetic, which sum to 1: so it plugs into every training algorithm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sio_ray.errors import BatchError, ConfigError


def sample_weights(
    is_synthetic: Tensor, *, real_weight: float, num_real: int | None = None, num_synthetic: int | None = None
) -> Tensor:
    """The weight of each sample in the objective; over the global batch they sum to 1.

    Args:
        is_synthetic: (B,) bool, true where a sampler drew the image.
        real_weight: alpha in [0, 1].
        num_real: real images of the global batch; those of this batch if not given.
        num_synthetic: synthetic images of the global batch; those of this batch if not given.

    Returns:
        (B,) float32.

    Raises:
        BatchError: a source with non-zero weight has no image in the batch.
        ConfigError: `real_weight` is out of range.
    """
    if not 0 <= real_weight <= 1:
        raise ConfigError("real_weight", "in [0, 1]", real_weight, "give a share, not a percentage")
    num_synthetic = int(is_synthetic.sum()) if num_synthetic is None else num_synthetic
    num_real = len(is_synthetic) - int(is_synthetic.sum()) if num_real is None else num_real
    for name, weight, count in (("real", real_weight, num_real), ("synthetic", 1 - real_weight, num_synthetic)):
        if weight > 0 and count == 0:
            raise BatchError(
                f"the batch has no {name} image although real_weight {real_weight} gives that source weight "
                f"{weight:.3g}; change real_batch_share or take a larger batch."
            )
    of_real = real_weight / num_real if num_real else 0.0
    of_synthetic = (1 - real_weight) / num_synthetic if num_synthetic else 0.0
    weights = torch.full(is_synthetic.shape, of_real, device=is_synthetic.device)
    return weights.masked_fill(is_synthetic, of_synthetic)


def sio_loss(losses: Tensor, is_synthetic: Tensor, *, real_weight: float) -> Tensor:
    """Weigh the real and the synthetic mean loss of one batch.

    Where the real share of the batch equals `real_weight`, this is the plain mean over the batch.

    Args:
        losses: (B,) float32, one per image, in nats.
        is_synthetic: (B,) bool, true where a sampler drew the image.
        real_weight: alpha in [0, 1]; the synthetic mean gets the rest.

    Returns:
        Scalar float32.

    Raises:
        BatchError: a source with non-zero weight has no image in the batch.
        ConfigError: `real_weight` is out of range.
    """
    return (sample_weights(is_synthetic, real_weight=real_weight) * losses).sum()
