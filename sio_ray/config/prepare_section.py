"""The section of the config that says where real images come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sio_ray.config.section import Section, resource
from sio_ray.errors import ConfigError

Source = Literal["digits", "fashion_mnist", "cifar10", "cifar100", "imagenet", "openood", "image_folder"]
Benchmark = Literal["cifar10", "cifar100", "imagenet200", "imagenet"]

_TRAIN = ("train_fraction", "seed")
_SHARES = ("val_fraction", *_TRAIN)
_DRAWN = ("images_per_ood_set", "num_outliers")
_PIXELS = ("image_size_px", "channels")
_SETS = ("near_ood_sets", "far_ood_sets", "outliers")
_CIFAR = (*_SETS, *_DRAWN, *_SHARES)

#: Source to the fields that decide what it gives; the others mean nothing to it. The root of a published data set is
#: not among them, as its files are compared with what was published.
DECISIVE_FIELDS: dict[str, tuple[str, ...]] = {
    "digits": ("id_classes", "near_ood_classes", "test_fraction", *_DRAWN, *_SHARES),
    "fashion_mnist": ("id_classes", "near_ood_classes", *_DRAWN, *_SHARES),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "imagenet": ("root", "id_classes", "near_ood_classes", "outliers", *_PIXELS, *_DRAWN, *_SHARES),
    "openood": ("root", "benchmark", "id_classes", *_SETS, "shifted_sets", *_PIXELS, "num_outliers", *_TRAIN),
    "image_folder": ("root", "test_fraction", "outliers", *_PIXELS, *_DRAWN, *_SHARES),
}


class PrepareConfig(Section):
    """Where real images come from, and how they are split; docs/data.md has a command for each source.

    Attributes:
        source: `digits` (scikit-learn's 8x8 digits), `fashion_mnist`, `cifar10`, `cifar100`, `imagenet` (ImageNet-1K
            or some of its classes), `openood` (the splits of one of OpenOOD's benchmarks) or `image_folder` (your own
            pictures).
        root: folder that holds the source's files; `digits` needs none.
        download: fetch published files that are not in `root` yet.
        benchmark: which one, of an `openood` source.
        on_corrupt: what to do with a picture that does not decode: `stop`, or `skip` it and list it in the record.
            What was skipped stays out of a finished set.
        image_size_px: pictures of `imagenet`, `openood` and `image_folder` are resized and centre-cropped to this
            square.
        channels: 1 (grey) or 3 (RGB), for the same sources.
        id_classes: classes that are in-distribution (ID), for sources that divide their classes: `digits`,
            `fashion_mnist`, `imagenet`; labels are renumbered from 0 in this order. The source's own choice if not
            given. For `openood`, the ImageNet class of each label, from which the classes get their names.
        near_ood_classes: classes of the same sources held out as near-OOD; the source's own choice if not given.
        near_ood_sets: near-OOD sets of `cifar10`, `cifar100` and `openood`; the source's own choice if not given.
        far_ood_sets: their far-OOD sets, likewise.
        shifted_sets: ID test sets under a covariate shift that `openood` shall give (`cifar10c`, `imagenet_v2`,
            `imagenet_c`, `imagenet_r`, `imagenet_es`), for `evaluate.full_spectrum`.
        outliers: the outlier-exposure set: `drawn` textures, or the `source`'s own: Tiny ImageNet's training pictures
            for `cifar10` and `cifar100`, the benchmark's list for `openood`, the folder `outliers` for `imagenet` and
            `image_folder`.
        val_fraction: share of the ID images (and of near-OOD) that tunes, never trains, never tests. It is taken from
            the test set where `cifar10`, `cifar100` and `imagenet` have one; `openood` has lists of its own.
        test_fraction: share of the ID images that is read once, at the end, for `digits` and `image_folder`.
        train_fraction: share of the training images that is used, by generator and classifiers alike: of every class
            the same, and at least one image. A smaller share is part of a larger one, and other sets stay as they are.
        images_per_ood_set: pictures in each far-OOD set that is drawn or cut (letters, patches, noise).
        num_outliers: pictures in the outlier-exposure and in the mixing set, where they are drawn.
        seed: of the split, of the order of the training set, and of everything drawn.
    """

    source: Source = "digits"
    root: Path | None = None
    download: bool = resource(False)
    benchmark: Benchmark | None = None
    on_corrupt: Literal["stop", "skip"] = resource("stop")
    image_size_px: int = Field(32, ge=4, le=1024)
    channels: Literal[1, 3] = 3
    id_classes: tuple[int, ...] | None = None
    near_ood_classes: tuple[int, ...] | None = None
    near_ood_sets: tuple[str, ...] | None = Field(None, min_length=1)
    far_ood_sets: tuple[str, ...] | None = Field(None, min_length=1)
    shifted_sets: tuple[str, ...] = ()
    outliers: Literal["drawn", "source"] = "drawn"
    val_fraction: float = Field(0.2, gt=0, lt=1, json_schema_extra={"remedy": "give a share, not a percentage"})
    test_fraction: float = Field(0.2, gt=0, lt=1, json_schema_extra={"remedy": "give a share, not a percentage"})
    train_fraction: float = Field(1.0, gt=0, le=1, json_schema_extra={"remedy": "give a share, not a percentage"})
    images_per_ood_set: int = Field(400, ge=1)
    num_outliers: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.root is None and self.source not in ("digits", "fashion_mnist"):
            raise ConfigError(
                "prepare.root", f"a folder for source {self.source}", None, "set prepare.root=/your/pictures"
            )
        if self.benchmark is None and self.source == "openood":
            raise ConfigError("prepare.benchmark", "given for source openood", None, "set e.g. cifar10")
        both = sorted(set(self.id_classes or ()) & set(self.near_ood_classes or ()))
        if both and self.source != "openood":
            raise ConfigError(
                "prepare.near_ood_classes", "disjoint from id_classes", both, "keep each class on one side"
            )
        for field in ("id_classes", "near_ood_classes", "near_ood_sets", "far_ood_sets", "shifted_sets"):
            values = getattr(self, field) or ()
            if len(set(values)) != len(values):
                raise ConfigError(f"prepare.{field}", "without repeats", values, "name each once")
        if self.val_fraction + self.test_fraction >= 1 and "test_fraction" in DECISIVE_FIELDS[self.source]:
            total = self.val_fraction + self.test_fraction
            raise ConfigError(
                "prepare.test_fraction", "less than 1 together with val_fraction", total, "leave images to train on"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the source gives, as JSON values; other sources' fields are left out."""
        values = super().identity()
        if self.root is not None:
            values["root"] = str(self.root.absolute())
        return {"source": self.source, **{name: values[name] for name in DECISIVE_FIELDS[self.source]}}
