"""The real image sets that `prepare` has written for a config."""

from __future__ import annotations

from pathlib import Path

from sio_ray.config import Config
from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet
from sio_ray.stages.layout import prepare_place
from sio_ray.stages.record import require


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
