"""Runs a network over images once, and keeps what detectors read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.backends import cudnn

from sio_ray.errors import EvaluationError
from sio_ray.imageset import ImageArrays
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, ScoredNetwork, no_graph


def extract(
    network: ScoredNetwork, arrays: ImageArrays, *, batch_size: int, probes: Sequence[Probe], where: str
) -> NetworkOutputs:
    """Features, logits and what probes read, of every image, by one forward pass per batch.

    In float32 and the plain memory layout, though bfloat16 or TF32 would be faster: scores such as distances to
    neighbours live on digits that these do not have.

    Args:
        network: in evaluation mode, on the device to run on.
        arrays: the images.
        batch_size: images per pass.
        probes: of the detectors.
        where: what to call the set in an error.

    Returns:
        Outputs on the CPU.

    Raises:
        EvaluationError: a value is not finite; the image is named. Or the network has not what a probe reads.
    """
    device = next(network.parameters()).device
    with_gradient = any(probe.differentiates for probe in probes)
    with_maps = any(probe.reads_maps for probe in probes)
    kept: dict[str, Tensor] = {}
    with torch.no_grad(), _frozen(network), cudnn.flags(enabled=True, allow_tf32=False, fp32_precision="ieee"):
        for start in range(0, len(arrays), batch_size):
            rows = slice(start, start + batch_size)
            # As uint8, which is a quarter of the bytes to move; a copy, as what Arrow or Ray holds is read-only.
            images = torch.tensor(arrays.images[rows]).to(device).float().div_(255)
            batch = BatchPass(network, images, with_gradient=with_gradient, with_maps=with_maps)
            read = {"features": no_graph(batch.features), "logits": no_graph(batch.logits)}
            read |= {probe.name: probe.read(batch) for probe in probes}
            _check_finite(read, arrays.image_ids[rows], where)
            for name, values in read.items():
                if name not in kept:  # filled in place: pieces put together at the end would take the memory twice
                    kept[name] = torch.empty(len(arrays), *values.shape[1:])
                kept[name][rows] = values
    return NetworkOutputs(
        features=kept.pop("features"),
        logits=kept.pop("logits"),
        labels=torch.tensor(arrays.labels),
        image_ids=torch.tensor(arrays.image_ids),
        probes=kept,
    )


def last_layer_of(network: ScoredNetwork) -> LastLayer | None:
    """The last layer's weight and bias, on the CPU; None where it is not linear."""
    try:
        layer = network.last_layer
    except EvaluationError:
        return None
    return LastLayer(layer.weight.detach().cpu(), layer.bias.detach().cpu())


@contextmanager
def _frozen(network: ScoredNetwork) -> Iterator[None]:
    """Without gradients of parameters, which a pass that is differentiated by the pixels would keep activations for."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _check_finite(read: Mapping[str, Tensor], image_ids: npt.NDArray[np.int64], where: str) -> None:
    for name, values in read.items():
        broken = ~values.isfinite().reshape(len(values), -1).all(1)
        if broken.any():
            image_id = int(image_ids[int(broken.nonzero()[0, 0])])
            what = f"the network's {name}" if name in ("features", "logits") else f"what probe {name} reads"
            raise EvaluationError(
                f"{what} of image_id {image_id} of {where} must be finite, got NaN or infinity; train the checkpoint "
                "again, or leave it out."
            )
