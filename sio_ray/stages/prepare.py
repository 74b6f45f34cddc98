"""Stage `prepare`: real images from their source into image sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sio_ray.config import Config
from sio_ray.datasets import load_source
from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.stages.layout import prepare_place
from sio_ray.stages.record import Outcome, require, run_once


def prepare(config: Config) -> Outcome:
    """Write every real image set of the config's source; sets that are there already are kept.

    Raises:
        ConfigError: a field does not fit the source.
        ImageSetError: the source's pictures cannot be used.
        ResourceError: the output folder cannot be written.
    """
    place = prepare_place(config)
    manifests: list[str] = []  # filled by the work, as the sets are known only then

    def work(folder: Path) -> dict[str, Any]:
        source = load_source(config.prepare)
        counts = {}
        for name, image_set in source.sets():
            class_names = source.class_names if name.startswith("id/") else ()
            _, channels, height, width = image_set.images.shape
            info = ImageSetInfo(
                class_names=class_names,
                height_px=height,
                width_px=width,
                channels=channels,
                provenance={"source": config.prepare.source, "set": name, **config.prepare.identity()},
            )
            if not (folder / name / MANIFEST_NAME).exists():
                write_image_set(folder / name, info, image_set.images, image_set.labels, paths=image_set.paths)
            counts[name] = len(image_set.labels)
            manifests.append(f"{name}/{MANIFEST_NAME}")
        return {"num_images": counts, "class_names": list(source.class_names)}

    return run_once("prepare", place.folder, place.identity, config, work, outputs=manifests)


class PreparedSets:
    """The real image sets of a config.

    Args:
        config: whose `prepare` has run.
        needed_by: the stage that asks, for the message.

    Raises:
        StageError: `prepare` has not finished for this config.
    """

    def __init__(self, config: Config, needed_by: str) -> None:
        self.folder = prepare_place(config).folder
        self.num_images: dict[str, int] = require(self.folder, "prepare", needed_by).result["num_images"]

    def open(self, name: str) -> ImageSet:
        """Open one set, such as `id/train`.

        Raises:
            ImageSetError: it is missing or unfinished.
        """
        return ImageSet(self.folder / name)

    def ood(self, split: str) -> dict[tuple[str, str], Path]:
        """Folders of the OOD sets by (group, name), groups `near` and `far`.

        Args:
            split: `val` for anything that tunes, `test` for the figures.
        """
        found = {}
        for name in self.num_images:
            group, _, rest = name.partition("_ood/")
            if rest.startswith(f"{split}/"):
                found[group, rest.removeprefix(f"{split}/")] = self.folder / name
        if not any(group == "near" for group, _ in found):
            raise ImageSetError(f"{self.folder} holds no near-OOD {split} set; run `sio-ray prepare` with one.")
        return found
