"""What every source of real images hands over: the sets of one benchmark, each picture with its provenance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sio_ray.imageset.pictures import UInt8Array

#: Label of every picture that is in none of the classes.
OOD_LABEL = -1


@dataclass(frozen=True, eq=False)
class SourceSet:
    """Pictures in memory, with their labels and where each came from.

    Attributes:
        images: (N, C, H, W) uint8, C is 1 or 3.
        labels: (N,) int64, in [0, num_classes), or all -1 where the set is OOD.
        paths: (N,) provenance of each picture, its first part the source: `sklearn-digits/0123`, `china.jpg/x=12,y=40`.
    """

    images: UInt8Array
    labels: npt.NDArray[np.int64]
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
        return cls(images, np.full(len(images), OOD_LABEL, dtype=np.int64), paths)

    def take(self, rows: npt.NDArray[np.int64]) -> SourceSet:
        """The pictures at `rows`, (M,) int64, in that order."""
        return SourceSet(self.images[rows], self.labels[rows], [self.paths[row] for row in rows])


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
    """

    class_names: tuple[str, ...]
    train: SourceSet
    val: SourceSet
    test: SourceSet
    near_val: dict[str, SourceSet]
    near_test: dict[str, SourceSet]
    far_val: dict[str, SourceSet]
    far_test: dict[str, SourceSet]
    outliers: SourceSet
    mixing: SourceSet

    def sets(self) -> list[tuple[str, SourceSet]]:
        """Every set with its folder relative to the benchmark's, such as `far_ood/test/letters`."""
        pairs = [("id/train", self.train), ("id/val", self.val), ("id/test", self.test)]
        pairs += [(f"near_ood/val/{name}", source_set) for name, source_set in self.near_val.items()]
        pairs += [(f"near_ood/test/{name}", source_set) for name, source_set in self.near_test.items()]
        pairs += [(f"far_ood/val/{name}", source_set) for name, source_set in self.far_val.items()]
        pairs += [(f"far_ood/test/{name}", source_set) for name, source_set in self.far_test.items()]
        return [*pairs, ("outlier_exposure", self.outliers), ("mixing", self.mixing)]
