"""Data sets of torchvision, by name."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from PIL import Image

from sio_ray.errors import ConfigError, ImageSetError, did_you_mean
from sio_ray.imageset.exchange.source import PictureShape, Source, set_info
from sio_ray.imageset.foreign_pictures import bombs_are_errors, decoding
from sio_ray.imageset.writer import Batch

#: Data sets that torchvision unpickles, and our source of the same pictures.
_PICKLED = {"CIFAR10": "cifar10", "CIFAR100": "cifar100"}


def open_source(
    source: str,
    root: str | None = None,
    split: str = "train",
    download: bool = False,
    class_names: tuple[str, ...] | None = None,
    size_px: int | None = None,
    channels: int | None = None,
) -> Source:
    """Open a data set that gives (picture, label).

    Args:
        source: its name in `torchvision.datasets`, such as `FashionMNIST`; `torchvision:` may stand before it.
        root: the folder that torchvision keeps it in.
        split: `train` or `test`, or another name that the data set knows.
        download: fetch it if it is not there.
        class_names: name of class c at position c; the data set's own if not given.
        size_px: side of the square that all pictures are brought to; the first picture's size if not given.
        channels: 1 or 3; the first picture's if not given.

    Raises:
        ConfigError: no such data set or split, or no root.
        ImageSetError: it is not there, names no classes, or does not give pictures with labels.
    """
    name = source.removeprefix("torchvision:")
    if root is None:
        raise ConfigError("--root", "the folder that torchvision keeps the data set in", None, "give one")
    dataset = _open(name, root, split, download)
    names = class_names or tuple(map(str, getattr(dataset, "classes", ())))
    if not names:
        raise ImageSetError(f"torchvision's {name} does not name its classes; give --class-names.")

    def item(row: int) -> tuple[Image.Image, int]:
        with decoding(f"{name}/{split}/{row}"):
            picture, label = dataset[row]
        if not isinstance(picture, Image.Image) or not isinstance(label, int | np.integer):
            raise ImageSetError(f"torchvision's {name} gives no pictures with one label each; choose another data set.")
        return picture, int(label)

    with bombs_are_errors():
        shape = PictureShape.of(item(0)[0], size_px, channels)

    def read(start: int, stop: int) -> Batch:
        with bombs_are_errors():
            items = [item(row) for row in range(start, stop)]
        places = [f"{name}/{split}/{row}" for row in range(start, stop)]
        images = np.stack([shape.fit(picture, place) for (picture, _), place in zip(items, places, strict=True)])
        return Batch(images, np.array([label for _, label in items], dtype=np.int64), places)

    provenance = {"source": "torchvision", "dataset": name, "split": split}
    return Source(set_info(shape, names, provenance), len(dataset), read)


def _open(name: str, root: str, split: str, download: bool) -> Any:
    from torchvision import datasets

    makers = {
        name: maker
        for name in datasets.__all__
        if {"train", "split"} & set(inspect.signature(maker := getattr(datasets, name)).parameters)
    }
    if name not in makers:
        remedy = did_you_mean(name, makers, "give a name such as FashionMNIST")
        raise ConfigError("SOURCE", "a data set of torchvision with splits", name, remedy)
    if name in _PICKLED:
        raise ConfigError(
            "SOURCE",
            "a data set of torchvision that is not kept as pickles, which run what they say",
            name,
            "prepare.source=" + _PICKLED[name] + " reads its binary version",
        )
    parameters = inspect.signature(makers[name]).parameters
    arguments: dict[str, Any] = {"split": split}
    if "split" not in parameters:
        if split not in ("train", "test"):
            raise ConfigError("--split", f"train or test for {name}", split, "give one of the two")
        arguments = {"train": split == "train"}
    if download:
        if "download" not in parameters:
            raise ConfigError("--download", f"left out for {name}", download, "fetch it as torchvision's docs say")
        arguments["download"] = True
    try:
        return makers[name](root, **arguments)
    except Exception as error:  # each data set has readers of its own
        raise ImageSetError(
            f"torchvision cannot open {name} in {root} ({' '.join(str(error).split())}); check --root and --split, or "
            "add --download."
        ) from error
