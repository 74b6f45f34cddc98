"""ImageNet-1K (Russakovsky et al., arXiv:1409.0575) or some of its classes, from its usual folders."""

from __future__ import annotations

import re
from pathlib import Path

from sio_ray.config import PrepareConfig
from sio_ray.datasets.classes import id_and_near_classes
from sio_ray.datasets.folders import class_folders, far_sets, further_sets, ood_folder_sets, subfolders
from sio_ray.datasets.source import FileSet, PictureSet, SourceCollection, ood_labels
from sio_ray.datasets.split import split_by_class
from sio_ray.errors import ImageSetError
from sio_ray.seeding import numpy_generator

NUM_CLASSES = 1000

_WORDNET_ID = re.compile(r"n\d{8}")


def load_imagenet(config: PrepareConfig) -> SourceCollection:
    """Find the pictures of `root/train/<wnid>/` and `root/val/<wnid>/`; none is opened yet.

    Class c is the c-th of the 1,000 folders by name, as in every published model. The published validation set is
    divided, class by class, into validation (`val_fraction`; 0.1 gives the sizes of OpenOOD and of the SIO authors, 5
    and 45 a class) and test. Near-OOD are the same two parts of the classes that are not ID (`other_classes`), and the
    sets in `root/near_ood/<set>/`; far-OOD those in `root/far_ood/<set>/`, or drawn ones without.

    Args:
        config: `root`, `id_classes` (all 1,000 if not given), `near_ood_classes` (all others), `image_size_px`,
            `channels`, `outliers`, `val_fraction`, the counts and the seed are used.

    Raises:
        ConfigError: a class that is none, fewer than two ID classes, or one that is on both sides.
        ImageSetError: a folder is missing or empty, or there is no near-OOD set.
    """
    assert config.root is not None, "checked by the config"
    root = config.root.absolute()
    id_classes, near_classes = id_and_near_classes(
        config, num_classes=NUM_CLASSES, default_id=range(NUM_CLASSES), min_near=0
    )
    folders = _class_folders(root)
    names = class_names()
    train = class_folders(root, [f"train/{folders[c]}" for c in id_classes], config)
    val, test = _split_val(root, folders, id_classes, config)
    near_val, near_test = ood_folder_sets(root, "near_ood", config)
    if near_classes:
        others = _split_val(root, folders, near_classes, config)
        near_val["other_classes"], near_test["other_classes"] = (
            part.with_labels(ood_labels(len(part))) for part in others
        )
    if not near_test:
        raise ImageSetError(
            f"{root} has no near_ood/<set> folder, and no class is left for near-OOD, which is what SIO is measured "
            "on; add pictures of classes that are close to ImageNet's but none of them, or take the source openood."
        )
    far_val, far_test = far_sets(root, config)
    outliers, mixing = further_sets(root, config)
    return SourceCollection(
        class_names=tuple(names[c] for c in id_classes),
        train=train,
        val=val,
        test=test,
        near_val=near_val,
        near_test=near_test,
        far_val=far_val,
        far_test=far_test,
        outliers=outliers,
        mixing=mixing,
    )


def class_names() -> tuple[str, ...]:
    """What torchvision calls the 1,000 classes, in their order."""
    from torchvision.models import ResNet50_Weights  # takes seconds

    names: list[str] = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return tuple(names)


def _class_folders(root: Path) -> list[str]:
    """The WordNet ids of all classes, in their order."""
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise ImageSetError(
                f"{root} has no {part} folder; put ImageNet's pictures in {root}/{part}/<wnid>/, as "
                "torchvision.datasets.ImageNet unpacks the published archives."
            )
    found = [folder.name for folder in subfolders(root / "train")]
    strange = [name for name in found if not _WORDNET_ID.fullmatch(name)]
    if strange or len(found) != NUM_CLASSES:
        what = f"{strange[0]!r} among them" if strange else f"{len(found):,}"
        raise ImageSetError(
            f"{root}/train must hold the {NUM_CLASSES:,} class folders of ImageNet-1K, named like n01440764, got "
            f"{what}; for a part of ImageNet that you keep by itself take the source image_folder."
        )
    return found


def _split_val(
    root: Path, folders: list[str], classes: tuple[int, ...], config: PrepareConfig
) -> tuple[PictureSet, PictureSet]:
    """Validation and test part of some classes of the published validation set."""
    whole: FileSet = class_folders(root, [f"val/{folders[c]}" for c in classes], config)
    shares = (config.val_fraction, 1 - config.val_fraction)
    rng = numpy_generator(config.seed, "imagenet/val")
    val, test = split_by_class(whole.labels, shares, rng, [f"class folder val/{folders[c]}" for c in classes])
    return whole.take(val), whole.take(test)
