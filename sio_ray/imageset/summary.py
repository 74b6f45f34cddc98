"""What an image set is, from its manifest alone; and which sets lie below a folder."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from sio_ray.errors import ImageSetError
from sio_ray.imageset.files import is_shard, shards_done
from sio_ray.imageset.manifest import MANIFEST_NAME, Manifest
from sio_ray.imageset.storage import Folder


class SetSummary(BaseModel):
    """A finished set in numbers.

    Attributes:
        uri: path or URI of the set, without secrets.
        num_images: of the whole set.
        class_names: empty for an OOD set.
        class_counts: images of each class.
        height_px: of every picture.
        width_px: of every picture.
        channels: 1 (grey) or 3 (RGB).
        num_shards: files.
        num_bytes: of all shards.
        num_rejected: pictures that were drawn and not kept.
        provenance: where the pictures come from.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    num_images: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    height_px: int
    width_px: int
    channels: int
    num_shards: int
    num_bytes: int
    num_rejected: int
    provenance: dict[str, Any]

    @property
    def share_rejected(self) -> float:
        """Rejected pictures over all that were drawn."""
        return self.num_rejected / max(1, self.num_images + self.num_rejected)


class UnfinishedSet(BaseModel):
    """A set without a manifest.

    Attributes:
        uri: path or URI of the set, without secrets.
        num_shards_done: shards that are there.
        num_shards: shards that it will have, by their names.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    num_shards_done: int
    num_shards: int


class UnreadableSet(BaseModel):
    """A folder whose manifest cannot be read.

    Attributes:
        uri: path or URI of the folder, without secrets.
        reason: the error in words.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    reason: str


def summarize_below(uri: str) -> dict[str, SetSummary | UnfinishedSet | UnreadableSet]:
    """Look at every set in a folder and below; one that cannot be read does not hide the others.

    Returns:
        Path below the folder to summary; the path is empty where the folder itself is the set.

    Raises:
        ImageSetError: there is none, the folder cannot be listed, or it is itself a set that cannot be read.
    """
    found = find_image_sets(uri)
    if list(found) == [""]:
        return {"": summarize(uri)}
    summaries: dict[str, SetSummary | UnfinishedSet | UnreadableSet] = {}
    for place, each in found.items():
        try:
            summaries[place] = summarize(each)
        except ImageSetError as error:
            summaries[place] = UnreadableSet(uri=Folder(each).safe_uri, reason=str(error))
    return summaries


def summarize(uri: str) -> SetSummary | UnfinishedSet:
    """Read a set's manifest.

    Raises:
        ImageSetError: there is no set, finished or not, or its manifest cannot be read.
    """
    folder = Folder(uri)
    if not folder.exists(MANIFEST_NAME):
        done, total = shards_done(folder.files())
        if done:
            return UnfinishedSet(uri=folder.safe_uri, num_shards_done=done, num_shards=total)
    manifest = Manifest.read(folder)
    info = manifest.info
    return SetSummary(
        uri=folder.safe_uri,
        num_images=manifest.num_images,
        class_names=info.class_names,
        class_counts=manifest.class_counts,
        height_px=info.height_px,
        width_px=info.width_px,
        channels=info.channels,
        num_shards=len(manifest.shards),
        num_bytes=manifest.num_bytes,
        num_rejected=manifest.num_rejected,
        provenance=info.provenance,
    )


def find_image_sets(uri: str) -> dict[str, str]:
    """The sets, finished or not, in a folder and below: path below the folder to path or URI, sorted.

    Raises:
        ImageSetError: there is none, or the folder cannot be listed.
    """
    folder = Folder(uri)
    places = {
        path.parent
        for path in map(PurePosixPath, folder.files(below=True))
        if path.name == MANIFEST_NAME or is_shard(path.name)
    }
    if not places:
        raise ImageSetError(
            f"there is no image set in {folder.safe_uri} nor below ({MANIFEST_NAME} or part-*.parquet); check the path."
        )
    below = {str(place): folder.subfolder(str(place)).uri for place in sorted(places - {PurePosixPath()})}
    return ({"": uri} if PurePosixPath() in places else {}) | below
