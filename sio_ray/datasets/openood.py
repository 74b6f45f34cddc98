"""The benchmarks of OpenOOD v1.5 (arXiv:2306.09301), exactly as its image lists divide them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sio_ray.config import PrepareConfig
from sio_ray.datasets.drawn import draw_mixing, draw_outliers
from sio_ray.datasets.imagenet import NUM_CLASSES, class_names
from sio_ray.datasets.ood_sets import check_names
from sio_ray.datasets.source import FileSet, Int64Array, PictureSet, SourceCollection, ood_labels
from sio_ray.errors import ConfigError, ImageSetError
from sio_ray.imageset.exchange.place import stays_inside

#: So that every label is a number of 64 bits.
_MAX_LABEL_DIGITS = 18

_CLASSIC, _LARGE = "images_classic", "images_largescale"


@dataclass(frozen=True)
class Benchmark:
    """Which lists make a benchmark; a list is `benchmark_imglist/<benchmark>/<part>_<name>.txt`.

    Attributes:
        pictures: folder that the paths of its lists start from; `textures` is always among the classic ones.
        near: near-OOD sets, for test.
        far: far-OOD sets, for test.
        val_ood: the OOD set that choices are made on; it stands with the near ones.
        outliers: the list for outlier exposure, if there is one.
        shifted: ID test sets under a covariate shift, for the full spectrum.
    """

    pictures: str
    near: tuple[str, ...]
    far: tuple[str, ...]
    val_ood: str
    outliers: str | None
    shifted: tuple[str, ...] = ()


_CIFAR_FAR = ("mnist", "svhn", "texture", "places365")
_IMAGENET_NEAR, _IMAGENET_FAR = ("ssb_hard", "ninco"), ("inaturalist", "textures", "openimage_o")
_SHIFTED = ("imagenet_v2", "imagenet_c", "imagenet_r")

#: As OpenOOD's `evaluation_api/datasets.py` has them; outliers as its `configs/datasets/*/*_oe.yml`.
BENCHMARKS = {
    "cifar10": Benchmark(_CLASSIC, ("cifar100", "tin"), _CIFAR_FAR, "tin", "train_tin597", ("cifar10c",)),
    "cifar100": Benchmark(_CLASSIC, ("cifar10", "tin"), _CIFAR_FAR, "tin", "train_tin597"),
    "imagenet200": Benchmark(_LARGE, _IMAGENET_NEAR, _IMAGENET_FAR, "openimage_o", "train_imagenet800", _SHIFTED),
    "imagenet": Benchmark(_LARGE, _IMAGENET_NEAR, _IMAGENET_FAR, "openimage_o", None, (*_SHIFTED, "imagenet_es")),
}


def load_openood(config: PrepareConfig) -> SourceCollection:
    """Read the lists of a benchmark in OpenOOD's `data` folder, and see that their pictures are there.

    ID pictures are labelled as the lists say. A class is named after the folder of its training pictures, or after its
    ImageNet class where that is known: in `imagenet`, and in `imagenet200` if `id_classes` gives it for each label.

    Args:
        config: `root`, `benchmark`, `near_ood_sets`, `far_ood_sets`, `shifted_sets`, `outliers`, `id_classes`,
            `image_size_px`, `channels`, `num_outliers` and the seed are used.

    Raises:
        ConfigError: no set of that name in the benchmark, or classes that are not those of the lists.
        ImageSetError: a list cannot be read, names pictures that are missing, or one that another list names too.
    """
    assert config.root is not None, "checked by the config"
    assert config.benchmark is not None, "checked by the config"
    benchmark = BENCHMARKS[config.benchmark]
    near, far = config.near_ood_sets or benchmark.near, config.far_ood_sets or benchmark.far
    check_names("near_ood_sets", near, benchmark.near)
    check_names("far_ood_sets", far, benchmark.far)
    check_names("shifted_sets", config.shifted_sets, benchmark.shifted)
    if config.outliers == "source" and benchmark.outliers is None:
        raise ConfigError(
            "prepare.outliers", f"drawn for benchmark {config.benchmark}", "source", "OpenOOD has no outliers for it"
        )
    lists = _Lists(config, benchmark)
    id_lists = {part: f"{part}_{config.benchmark}" for part in ("train", "val", "test")}
    id_lists |= {name: f"test_{name}" for name in config.shifted_sets}
    id_sets = {part: lists.read(name) for part, name in id_lists.items()}
    names = _class_names(id_sets["train"], config)
    for part, picture_set in id_sets.items():
        if picture_set.labels.min() < 0 or picture_set.labels.max() >= len(names):
            raise ImageSetError(
                f"image list {lists.path(id_lists[part])} must have labels in [0, {len(names)}), got "
                f"{picture_set.labels.min()}..{picture_set.labels.max()}; fetch OpenOOD's lists again."
            )
    shape = (config.num_outliers, config.image_size_px, config.image_size_px, config.channels, config.seed)
    outliers: PictureSet = draw_outliers(*shape)
    if config.outliers == "source" and benchmark.outliers is not None:
        outliers = lists.read_ood(benchmark.outliers)
    return SourceCollection(
        class_names=names,
        train=id_sets["train"],
        val=id_sets["val"],
        test=id_sets["test"],
        near_val={benchmark.val_ood: lists.read_ood(f"val_{benchmark.val_ood}")},
        near_test={name: lists.read_ood(f"test_{name}") for name in near},
        far_val={},
        far_test={name: lists.read_ood(f"test_{name}") for name in far},
        outliers=outliers,
        mixing=draw_mixing(*shape),
        shifted={name: id_sets[name] for name in config.shifted_sets},
    )


class _Lists:
    """Reads lists, each picture in at most one of them."""

    def __init__(self, config: PrepareConfig, benchmark: Benchmark) -> None:
        assert config.root is not None, "checked by the config"
        self._config, self._benchmark = config, benchmark
        self._root = config.root.absolute()
        self._seen: dict[str, str] = {}
        self._listings: dict[str, set[str]] = {}

    def path(self, name: str) -> Path:
        return self._root / "benchmark_imglist" / str(self._config.benchmark) / f"{name}.txt"

    def read_ood(self, name: str) -> FileSet:
        """A list whose labels mean nothing."""
        found = self.read(name)
        return found.with_labels(ood_labels(len(found)))

    def read(self, name: str) -> FileSet:
        folder = _CLASSIC if name.endswith("_textures") else self._benchmark.pictures
        names, labels = _parse(self.path(name))
        self._check_there(name, folder, names)
        self._check_new(name, names)
        paths = [f"{folder}/{path}" for path in names]
        return FileSet(self._root, paths, labels, self._config.image_size_px, self._config.channels)

    def _check_there(self, name: str, folder: str, names: list[str]) -> None:
        missing = [path for path in names if path.rpartition("/")[2] not in self._listing(folder, path)]
        if missing:
            raise ImageSetError(
                f"{len(missing):,} of {len(names):,} pictures of image list {self.path(name)} are not in "
                f"{self._root / folder}, the first is {missing[0]}; fetch that data set as OpenOOD's "
                "scripts/download does, or leave the set out."
            )

    def _listing(self, folder: str, path: str) -> set[str]:
        """Names in the folder of a picture; asked once for each folder, not once for each of a million pictures."""
        parent = f"{folder}/{path.rpartition('/')[0]}"
        if parent not in self._listings:
            where = self._root / parent
            self._listings[parent] = {entry.name for entry in where.iterdir()} if where.is_dir() else set()
        return self._listings[parent]

    def _check_new(self, name: str, names: list[str]) -> None:
        twice = [path for path in names if self._seen.get(path, name) != name]
        if twice:
            raise ImageSetError(
                f"image lists {self._seen[twice[0]]} and {name} of {self.path(name).parent} have {len(twice):,} "
                f"pictures in common, such as {twice[0]}; a picture must be in one set only, so fetch OpenOOD's lists "
                "again."
            )
        self._seen |= dict.fromkeys(names, name)


def _parse(path: Path) -> tuple[list[str], Int64Array]:
    """Paths and labels of a list, one `path label` a line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ImageSetError(
            f"image list {path} cannot be read ({error}); prepare.root must be OpenOOD's data folder, with "
            "benchmark_imglist in it."
        ) from error
    names, labels = [], []
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.removeprefix("-").isdecimal() or len(label) > _MAX_LABEL_DIGITS:
            raise ImageSetError(
                f"line {number} of image list {path} must be a path and a label, got {line[:80]!r}; mend the line."
            )
        if not stays_inside(name):
            raise ImageSetError(
                f"line {number} of image list {path} must be a path below the data folder, got {name[:80]!r}; fetch "
                "OpenOOD's lists again."
            )
        names.append(name)
        labels.append(int(label))
    if not names:
        raise ImageSetError(f"image list {path} names no picture; fetch OpenOOD's lists again.")
    return names, np.array(labels, dtype=np.int64)


def _class_names(train: FileSet, config: PrepareConfig) -> tuple[str, ...]:
    """Of every label: the folder of its training pictures, or the ImageNet class that the config says it is."""
    folders_of: dict[int, set[str]] = {}
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        folders_of.setdefault(label, set()).add(path.rpartition("/")[0].rpartition("/")[2])
    folders = [min(some) for _, some in sorted(folders_of.items())]
    if sorted(folders_of) != list(range(len(folders))) or any(len(some) > 1 for some in folders_of.values()):
        raise ImageSetError(
            f"the training list of {config.benchmark} must number its folders 0, 1, ... without gaps, got labels "
            f"{min(folders_of)}..{max(folders_of)} for {len(set().union(*folders_of.values()))} folders; "
            "fetch OpenOOD's lists again."
        )
    ids = tuple(range(NUM_CLASSES)) if config.benchmark == "imagenet" else config.id_classes
    if ids is None or config.benchmark not in ("imagenet", "imagenet200"):
        return tuple(folders)
    # Both orders are that of the WordNet ids, so the one can be checked by the other without a table of all ids.
    if len(ids) != len(folders) or sorted(ids) != list(ids) or folders != sorted(folders) or ids[-1] >= NUM_CLASSES:
        raise ConfigError(
            "prepare.id_classes",
            f"the {len(folders)} ImageNet classes of the lists in ascending order",
            ids,
            "give one for each label, or leave it out to name classes after their folders",
        )
    return tuple(class_names()[c] for c in ids)
