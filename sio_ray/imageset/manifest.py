"""The manifest: written last, it commits an image set and says what every shard must be."""

from __future__ import annotations

import hashlib
import json
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sio_ray.errors import ImageSetError
from sio_ray.imageset.schema import ImageSetInfo
from sio_ray.imageset.storage import Folder

MANIFEST_NAME = "manifest.json"

_FORMAT_VERSION = 2


class ShardEntry(BaseModel):
    """What one shard must be.

    Attributes:
        name: file name in the set's folder.
        num_images: rows.
        num_bytes: size of the file.
        sha256: of the file's bytes, in hex.
        num_rejected: pictures that were drawn for this shard and not kept; their ids are in its metadata.
        device: what drew it, such as `cpu` or the name of a GPU; empty for a real set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_images: int
    num_bytes: int
    sha256: str
    num_rejected: int = 0
    device: str = ""

    @classmethod
    def of(cls, name: str, num_images: int, data: bytes, *, num_rejected: int = 0, device: str = "") -> ShardEntry:
        """Describe a shard from its bytes."""
        return cls(
            name=name,
            num_images=num_images,
            num_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            num_rejected=num_rejected,
            device=device,
        )


class Manifest(BaseModel):
    """All that is to know of a set without reading its pictures.

    Attributes:
        format_version: raised when a reader of today could not read the set.
        info: constants of the set.
        num_images: of the whole set.
        class_counts: images per class; empty for an OOD set.
        shards: in the order of their image ids.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = _FORMAT_VERSION
    info: ImageSetInfo
    num_images: int
    class_counts: tuple[int, ...] = ()
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        held = sum(shard.num_images for shard in self.shards)
        if held != self.num_images:
            raise ValueError(f"its shards hold {held} images, it says {self.num_images}")
        return self

    @property
    def num_bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.num_bytes for shard in self.shards)

    @property
    def num_rejected(self) -> int:
        """Pictures that were drawn and not kept, over all shards."""
        return sum(shard.num_rejected for shard in self.shards)

    @property
    def content_id(self) -> str:
        """A hash of all shards: two sets with the same pictures in the same order have the same one."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def write(self, folder: Folder) -> None:
        """Commit the set: from now on it is finished."""
        folder.write_bytes(MANIFEST_NAME, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Folder) -> Manifest:
        """Read the manifest of a finished set.

        Raises:
            ImageSetError: the set is missing, unfinished, of a newer format, or its manifest cannot be read.
        """
        try:
            data = folder.read_bytes(MANIFEST_NAME)
        except FileNotFoundError:
            if folder.list():
                raise ImageSetError(
                    f"image set {folder.safe_uri} is unfinished (it has no {MANIFEST_NAME}); "
                    "run the stage that writes it again, it continues where it stopped."
                ) from None
            raise ImageSetError(
                f"image set {folder.safe_uri} does not exist or is empty; "
                "check the path, or run the stage that writes it."
            ) from None
        except OSError as error:
            raise ImageSetError(
                f"image set {folder.safe_uri} cannot be read ({error}); give a folder that you may read."
            ) from error
        try:
            values = json.loads(data)
            # Before the fields: those of a newer format are not ours, and that does not make them corrupt.
            version = values.get("format_version") if isinstance(values, dict) else None
            if isinstance(version, int) and version > _FORMAT_VERSION:
                raise ImageSetError(
                    f"image set {folder.safe_uri} is of format {version}, this sio_ray reads up to {_FORMAT_VERSION}; "
                    "install the version that wrote it."
                )
            return cls.model_validate(values)
        except (ValueError, ValidationError) as error:
            raise ImageSetError(
                f"{folder.join(MANIFEST_NAME)} is corrupt ({str(error).splitlines()[0]}); "
                "delete it and run the stage that writes the set again."
            ) from error
