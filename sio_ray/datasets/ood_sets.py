"""OOD sets by name, for sources of 32 px pictures that let the user choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sio_ray.config import PrepareConfig
from sio_ray.datasets.drawn import draw_far_ood
from sio_ray.datasets.dtd import load_dtd
from sio_ray.datasets.mnist import load_mnist
from sio_ray.datasets.places365 import load_places365
from sio_ray.datasets.source import PictureSet
from sio_ray.datasets.svhn import load_svhn
from sio_ray.errors import ConfigError

#: Name to loader; every loader takes (root, size_px, channels, download).
PUBLISHED = {"mnist": load_mnist, "svhn": load_svhn, "textures": load_dtd, "places365": load_places365}

#: Names of the sets that need no file.
DRAWN = ("letters", "photo_patches", "noise")


def load_far_ood(
    names: Sequence[str], root: Path, size_px: int, channels: int, config: PrepareConfig
) -> tuple[dict[str, PictureSet], dict[str, PictureSet]]:
    """Validation and test sets; a published set is all for test, as OpenOOD has it.

    Args:
        names: keys of `PUBLISHED`, or of `DRAWN`.
        root: folder of the published files.
        size_px: side of the square that every picture is brought to.
        channels: 1 or 3.
        config: `download`, `images_per_ood_set` and the seed are used.

    Raises:
        ConfigError: no set of that name.
        ImageSetError: files are missing or other ones.
        ResourceError: they cannot be downloaded.
    """
    check_names("far_ood_sets", names, (*PUBLISHED, *DRAWN))
    val: dict[str, PictureSet] = {}
    test = {
        name: PUBLISHED[name](root, size_px, channels, download=config.download) for name in names if name in PUBLISHED
    }
    drawn = [name for name in names if name in DRAWN]
    if drawn:
        drawn_val, drawn_test = draw_far_ood(config.images_per_ood_set, size_px, size_px, channels, config.seed)
        val |= {name: drawn_val[name] for name in drawn}
        test |= {name: drawn_test[name] for name in drawn}
    return val, test


def check_names(field: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names of sets that a source has not.

    Raises:
        ConfigError: for all of them.
    """
    unknown = tuple(name for name in names if name not in known)
    if unknown:
        raise ConfigError(f"prepare.{field}", f"among {', '.join(known) or 'none'}", unknown, "choose from these")
