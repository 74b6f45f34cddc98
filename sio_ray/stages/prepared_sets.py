"""The real image sets that `prepare` has written for a config."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from sio_ray.config import Config
from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet
from sio_ray.ood.groups import Group, OODSet
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

    def ood(self, split: Literal["val", "test"]) -> dict[OODSet, Path]:
        """Folders of the OOD sets by (group, name), groups `near` and `far`.

        Args:
            split: `val` for anything that tunes, `test` for the figures.
        """
        found: dict[OODSet, Path] = {}
        for group in get_args(Group):
            prefix = f"{group}_ood/{split}/"
            names = (name for name in self.num_images if name.startswith(prefix))
            found |= {(group, name.removeprefix(prefix)): self.folder / name for name in names}
        if not any(group == "near" for group, _ in found):
            raise ImageSetError(f"{self.folder} holds no near-OOD {split} set; run `sio-ray prepare` with one.")
        return found

    def shifted(self) -> dict[str, Path]:
        """Folders of the ID test sets under a covariate shift, by name; few sources have any."""
        prefix = "id_shifted/"
        return {name.removeprefix(prefix): self.folder / name for name in self.num_images if name.startswith(prefix)}
