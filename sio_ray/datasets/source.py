"""What every source of real images hands over: the sets of one benchmark, each picture with its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from sio_ray.datasets.square import read_square
from sio_ray.imageset.pictures import UInt8Array

#: Label of every picture that is in none of the classes.
OOD_LABEL = -1

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SourceSet:
    """Pictures in memory, with their labels and where each came from.

    Attributes:
        images: (N, C, H, W) uint8, C is 1 or 3.
        labels: (N,) int64, in [0, num_classes), or all -1 where the set is OOD.
        paths: (N,) provenance of each picture, its first part the source: `sklearn-digits/0123`, `china.jpg/x=12,y=40`.
    """

    images: UInt8Array
    labels: Int64Array
    paths: list[str]

    def __post_init__(self) -> None:
        assert self.images.ndim == 4, "images must be (N, C, H, W)"
        assert self.images.dtype == np.uint8, "images must be uint8"
        assert self.labels.dtype == np.int64, "labels must be int64"
        assert len(self.images) == len(self.labels) == len(self.paths), "one label and one path per image"

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def of_ood(cls, images: UInt8Array, paths: list[str]) -> SourceSet:
        """A set whose every label is -1."""
        return cls(images, ood_labels(len(images)), paths)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every picture."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, rows: Int64Array) -> Self:
        """The pictures at `rows`, (M,) int64, in that order."""
        return replace(
            self, images=self.images[rows], labels=self.labels[rows], paths=[self.paths[row] for row in rows]
        )

    def with_labels(self, labels: Int64Array) -> Self:
        """The same pictures with other labels, (N,) int64."""
        return replace(self, labels=labels)

    def read(self, row: int) -> UInt8Array:
        """One picture, (C, H, W) uint8."""
        return np.asarray(self.images[row])


@dataclass(frozen=True, eq=False)
class FileSet:
    """Pictures in files that are decoded one by one as they are needed, with their labels.

    Attributes:
        root: folder that the paths start from; on a cluster, one that all nodes share.
        paths: (N,) of the files, which is where each picture came from too.
        labels: (N,) int64, in [0, num_classes), or all -1 where the set is OOD.
        size_px: side of the square that every picture is brought to.
        channels: 1 (grey) or 3 (RGB).
    """

    root: Path
    paths: list[str]
    labels: Int64Array
    size_px: int
    channels: int

    def __post_init__(self) -> None:
        assert self.labels.dtype == np.int64, "labels must be int64"
        assert len(self.labels) == len(self.paths), "one label per picture"

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def of_ood(cls, root: Path, paths: list[str], size_px: int, channels: int) -> FileSet:
        """A set whose every label is -1."""
        return cls(root, paths, ood_labels(len(paths)), size_px, channels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every picture."""
        return self.channels, self.size_px, self.size_px

    def take(self, rows: Int64Array) -> Self:
        """The pictures at `rows`, (M,) int64, in that order."""
        return replace(self, labels=self.labels[rows], paths=[self.paths[row] for row in rows])

    def with_labels(self, labels: Int64Array) -> Self:
        """The same pictures with other labels, (N,) int64."""
        return replace(self, labels=labels)

    def read(self, row: int) -> UInt8Array:
        """One picture, (C, H, W) uint8.

        Raises:
            ImageSetError: it does not decode.
        """
        return read_square(self.root / self.paths[row], self.size_px, self.channels)


#: A set that can be read by its rows, from any process.
PictureSet = SourceSet | FileSet


@dataclass(frozen=True, eq=False)
class SourceCollection:
    """All real sets of one benchmark; no picture is in two of them.

    Attributes:
        class_names: name of class c at position c.
        train: ID pictures that generator and classifier are fitted to.
        val: ID pictures that choices are made on.
        test: ID pictures that are read once, at the end.
        near_val: near-OOD sets by name, to make choices on.
        near_test: near-OOD sets by name, read once.
        far_val: far-OOD sets by name, to make choices on.
        far_test: far-OOD sets by name, read once.
        outliers: pictures for outlier exposure; they share no source with any OOD set.
        mixing: pictures that PixMix mixes in; they share no source with any OOD set.
        shifted: ID test pictures under a covariate shift, by name; read once.
    """

    class_names: tuple[str, ...]
    train: PictureSet
    val: PictureSet
    test: PictureSet
    near_val: dict[str, PictureSet]
    near_test: dict[str, PictureSet]
    far_val: dict[str, PictureSet]
    far_test: dict[str, PictureSet]
    outliers: PictureSet
    mixing: PictureSet
    shifted: dict[str, PictureSet] = field(default_factory=dict)

    def sets(self) -> list[tuple[str, PictureSet]]:
        """Every set with its folder relative to the benchmark's, such as `far_ood/test/letters`."""
        pairs = [("id/train", self.train), ("id/val", self.val), ("id/test", self.test)]
        pairs += [(f"id_shifted/{name}", picture_set) for name, picture_set in self.shifted.items()]
        pairs += [(f"near_ood/val/{name}", picture_set) for name, picture_set in self.near_val.items()]
        pairs += [(f"near_ood/test/{name}", picture_set) for name, picture_set in self.near_test.items()]
        pairs += [(f"far_ood/val/{name}", picture_set) for name, picture_set in self.far_val.items()]
        pairs += [(f"far_ood/test/{name}", picture_set) for name, picture_set in self.far_test.items()]
        return [*pairs, ("outlier_exposure", self.outliers), ("mixing", self.mixing)]


def ood_labels(count: int) -> Int64Array:
    """So many labels -1, (count,) int64."""
    return np.full(count, OOD_LABEL, dtype=np.int64)


def relabelled(labels: Int64Array, classes: Sequence[int]) -> Int64Array:
    """Position in `classes` of every label, (N,) int64; -1 for labels that are none of them."""
    positions = ood_labels(max(*classes, int(labels.max())) + 1)
    positions[list(classes)] = np.arange(len(classes))
    return positions[labels]
