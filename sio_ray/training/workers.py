"""What the data-parallel workers of one run do together, over torch.distributed; alone, each does it for itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    """Workers that train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_workers(values: Tensor) -> Tensor:
    """The mean of each element over all workers; the argument stays as it is."""
    return sum_over_workers(values) / world_size()


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum of each element over all workers; the argument stays as it is."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def from_first_worker(values: dict[str, float]) -> dict[str, float]:
    """What the first worker gives, in every worker; the others' own values are not looked at."""
    if world_size() == 1:
        return values
    box: list[Any] = [values]
    dist.broadcast_object_list(box, src=0)
    found: dict[str, float] = box[0]
    return found


class _Sum(torch.autograd.Function):
    """The sum over workers, with a gradient: each worker's part has a share in what every worker makes of the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_workers(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_workers(gradient)


def take_buffers_of_first(module: nn.Module) -> None:
    """Give every worker the buffers of the first, whose are saved; running statistics differ between workers."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Let batch normalisation take its statistics over the batch of all workers; names of parameters stay.

    On GPUs that is PyTorch's SyncBatchNorm. It refuses CPUs, where `CPUSyncBatchNorm` does the same.
    """
    if any(parameter.is_cuda for parameter in module.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-any-return]
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.__class__ = CPUSyncBatchNorm
    return module


class CPUSyncBatchNorm(_BatchNorm):
    """Batch normalisation over the images of all workers, however many each has."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Of maps and of features alike."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, C) to the same, normalised per channel."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        channels = x.shape[1]
        # In float32 under autocast, too: a sum in bfloat16 has two digits.
        by_channel = x.transpose(0, 1).reshape(channels, -1).to(torch.promote_types(x.dtype, torch.float32))
        count = sum_over_workers(torch.tensor([float(by_channel.shape[1])], device=x.device))
        mean = _Sum.apply(by_channel.sum(1)) / count
        # In two passes: the mean of squares less the square of the mean would cancel.
        centred = by_channel - mean[:, None]
        variance = _Sum.apply(centred.square().sum(1)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * count / (count - 1), share)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normalised = centred * scale[:, None] + self.bias[:, None]
        out: Tensor = normalised.view(channels, len(x), *x.shape[2:]).transpose(0, 1)
        return out.to(x.dtype)
