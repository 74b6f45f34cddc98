"""The manifest: written last, it commits an image set and says what every shard must be."""

from __future__ import annotations

import hashlib
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sio_ray.errors import ImageSetError
from sio_ray.imageset.schema import ImageSetInfo
from sio_ray.imageset.storage import Folder
from sio_ray.reading import parse_json, reason_of

MANIFEST_NAME = "manifest.json"

_FORMAT_VERSION = 2

#: A file of the set's own folder: no path, so that no set can make a reader open something else.
_FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$"

#: Of rows and bytes; what is larger is a mistake, and would overflow.
_MAX_COUNT = 2**48


class ShardEntry(BaseModel):
    """What one shard must be.

    Attributes:
        name: file name in the set's folder.
        num_images: rows.
        num_bytes: size of the file.
        sha256: of the file's bytes, in hex.
        num_rejected: pictures that were drawn for this shard and not kept; their ids are in its metadata.
        device: what drew it, such as `cpu AVX2` or the name of a GPU; empty for a real set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_FILE_NAME)
    num_images: int = Field(ge=0, le=_MAX_COUNT)
    num_bytes: int = Field(ge=0, le=_MAX_COUNT)
    sha256: str
    num_rejected: int = Field(0, ge=0, le=_MAX_COUNT)
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
    num_images: int = Field(ge=0, le=_MAX_COUNT)
    class_counts: tuple[Annotated[int, Field(ge=0, le=_MAX_COUNT)], ...] = ()
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        held = sum(shard.num_images for shard in self.shards)
        if held != self.num_images:
            raise ValueError(f"its shards hold {held} images, it says {self.num_images}")
        if len(self.class_counts) != self.info.num_classes:
            raise ValueError(f"it counts {len(self.class_counts)} classes and names {self.info.num_classes}")
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
            values = parse_json(data)
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
                f"{folder.join(MANIFEST_NAME)} is corrupt ({_words(error)}); "
                "delete it and run the stage that writes the set again."
            ) from error


def _words(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return reason_of(error)
    first = error.errors()[0]
    return ": ".join([".".join(map(str, first["loc"])) or "manifest", first["msg"]])
