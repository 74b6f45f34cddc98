"""Outputs of a network with what probes read, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, ScoredNetwork


def read_outputs(
    network: ScoredNetwork,
    images: Tensor,
    probes: Sequence[Probe],
    *,
    labels: Tensor | None = None,
    batch_size: int = 128,
) -> NetworkOutputs:
    """Labels are -1 if none are given; image ids count from 0."""
    features, logits, read = [], [], {probe.name: [] for probe in probes}
    with torch.no_grad():
        for batch_images in images.split(batch_size):
            batch = BatchPass(
                network,
                batch_images,
                with_gradient=any(probe.differentiates for probe in probes),
                with_maps=any(probe.reads_maps for probe in probes),
            )
            features.append(batch.features.detach())
            logits.append(batch.logits.detach())
            for probe in probes:
                read[probe.name].append(probe.read(batch))
    return NetworkOutputs(
        torch.cat(features),
        torch.cat(logits),
        torch.full((len(images),), -1) if labels is None else labels,
        torch.arange(len(images)),
        {name: torch.cat(parts) for name, parts in read.items()},
    )
