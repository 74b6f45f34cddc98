"""A picture of features: the two principal axes of the training features, and samples of image sets on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.ood.outputs import NetworkOutputs

#: Key of the schema metadata that holds the shares of variance.
SHARES_KEY = b"explained_variance"
_SHARES_COLUMNS = ("arm", "seed", "explained_variance")


@dataclass(frozen=True, eq=False)
class Projection:
    """Two principal axes of the features of a training set.

    Attributes:
        mean: (D,) float64, of the training features.
        axes: (D, 2) float64, orthonormal; the entry of largest size of each is positive, so the picture does not flip.
        shares: of the training features' variance along each axis, in [0, 1]; 0 where all features are the same.
    """

    mean: Tensor
    axes: Tensor
    shares: tuple[float, float]

    def __call__(self, features: Tensor) -> Tensor:
        """Place features on the axes.

        Args:
            features: (M, D).

        Returns:
            (M, 2) float64 on the CPU.
        """
        return (features.to(self.mean) - self.mean) @ self.axes


def fit_projection(features: Tensor, *, device: torch.device | str = "cpu", block_size: int = 8192) -> Projection:
    """Find the principal axes of training features by their covariance, in float64.

    Memory is that of a block and of two D x D matrices, so the features may lie on disk.

    Args:
        features: (N, D) of the training set.
        device: where the products run.
        block_size: rows at a time.

    Raises:
        EvaluationError: fewer than two features.
    """
    num_images, num_features = features.shape
    if num_features < 2:
        raise EvaluationError(
            f"fit_projection.features must have at least 2 columns, got {num_features}; a picture needs two axes."
        )

    def blocks() -> Iterator[Tensor]:
        for start in range(0, num_images, block_size):
            yield features[start : start + block_size].to(device, torch.float64)

    mean = sum((block.sum(0) for block in blocks()), torch.zeros(num_features, dtype=torch.float64, device=device))
    mean /= num_images
    # Centred before the product: the difference of large squares would lose the small axes.
    covariance = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)
    for block in blocks():
        centred = block - mean
        covariance.addmm_(centred.T, centred)
    variances, vectors = torch.linalg.eigh(covariance.cpu())
    axes = vectors[:, [-1, -2]]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    total = variances.sum()
    first, second = (variances[[-1, -2]] / total).tolist() if total > 0 else (0.0, 0.0)
    return Projection(mean.cpu(), axes * largest.sign(), (first, second))


def choose_rows(num_images: int, limit: int, seed: int) -> Tensor:
    """Rows of a random sample of a set, in random order.

    Args:
        num_images: of the set.
        limit: size of the sample; a smaller set is taken whole.
        seed: of the choice; the same seed and size give the same rows.

    Returns:
        (min(limit, num_images),) int64.
    """
    rows = np.random.default_rng(seed).permutation(num_images)[:limit]
    return torch.from_numpy(rows)


def project_sample(
    projection: Projection,
    outputs: NetworkOutputs,
    *,
    group: str,
    image_set: str,
    limit: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Place a random sample of a set on the axes.

    Args:
        projection: fitted to the training set of the same network.
        outputs: of the set; logits are not read.
        group: `train`, `id`, `near` or `far`.
        image_set: its name.
        limit: images in the sample.
        seed: of the sample.

    Returns:
        group, image_set, image_id, label, x, y; a row per image of the sample, in random order.
    """
    rows = choose_rows(len(outputs), limit, seed)
    x, y = projection(outputs.features[rows]).T.numpy()
    values = {"image_id": outputs.image_ids[rows].numpy(), "label": outputs.labels[rows].numpy(), "x": x, "y": y}
    return pd.DataFrame({"group": group, "image_set": image_set, **values})


def to_arrow(runs: Iterable[tuple[str, int, tuple[float, float], pd.DataFrame]]) -> pa.Table:
    """The samples of all runs as one table, which goes to Parquet.

    Args:
        runs: arm, seed, shares of variance, and rows of all sets, of each network; at least one.

    Returns:
        arm, seed, then the columns of `project_sample`; the schema's metadata hold the shares.
    """
    tables: list[pd.DataFrame] = []
    shares: list[dict[str, Any]] = []
    for arm, seed, of_run, rows in runs:
        tables.append(rows.assign(arm=arm, seed=seed)[["arm", "seed", *rows.columns]])
        shares.append(dict(zip(_SHARES_COLUMNS, (arm, seed, list(of_run)), strict=True)))
    table = pa.Table.from_pandas(pd.concat(tables, ignore_index=True), preserve_index=False)
    return table.replace_schema_metadata({SHARES_KEY: json.dumps(shares).encode()})


def from_arrow(table: pa.Table) -> tuple[pd.DataFrame, dict[tuple[str, int], tuple[float, ...]]]:
    """What `to_arrow` was given: the rows of all runs, and by (arm, seed) the shares of variance."""
    stored = json.loads((table.schema.metadata or {}).get(SHARES_KEY, b"[]"))
    shares = {(row["arm"], int(row["seed"])): tuple(row["explained_variance"]) for row in stored}
    return table.replace_schema_metadata(None).to_pandas(), shares
