"""The one schema of every image set, and the constants that travel in its metadata."""

from __future__ import annotations

import json
from typing import Any, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sio_ray.imageset.foreign_pictures import MAX_PIXELS

#: Rows per Parquet row group: small enough to shuffle by, large enough to read in one request.
ROWS_PER_GROUP = 256

_INFO_KEY = b"sio_ray"
_HUGGINGFACE_KEY = b"huggingface"

#: Metadata of one shard: ids of pictures that were drawn for it and not kept, as a JSON list.
REJECTED_KEY = b"sio_ray.rejected"

#: The columns of every shard.
FIELDS = [
    pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
    pa.field("label", pa.int64()),
    pa.field("image_id", pa.int64()),
]


class ImageSetInfo(BaseModel):
    """What is the same for every image of a set.

    Attributes:
        class_names: name of class c at position c; empty for a set whose labels are all -1 (OOD).
        height_px: height of every picture.
        width_px: width of every picture.
        channels: 1 (grey) or 3 (RGB).
        provenance: where the pictures come from, as JSON values: the source and its split for a real set; generator,
            sampler settings, base seed and versions for a synthetic one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_names: tuple[str, ...] = ()
    height_px: int = Field(ge=1)
    width_px: int = Field(ge=1)
    channels: int = Field(ge=1, le=3)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.height_px * self.width_px > MAX_PIXELS:
            raise ValueError(f"pictures must have at most {MAX_PIXELS:,} pixels, got {self.width_px}x{self.height_px}")
        return self

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def id_stride(self) -> int | None:
        """In a synthetic set, how far apart the ids are that may fill one place; None for other sets."""
        stride = self.provenance.get("id_stride")
        return stride if isinstance(stride, int) else None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every picture."""
        return (self.channels, self.height_px, self.width_px)


def arrow_schema(info: ImageSetInfo) -> pa.Schema:
    """The Arrow schema of a set, with its constants as metadata.

    The `huggingface` key makes `datasets.load_dataset("parquet", ...)` show pictures instead of dicts.
    """
    label = (
        {"names": list(info.class_names), "_type": "ClassLabel"}
        if info.class_names
        else {"dtype": "int64", "_type": "Value"}
    )
    features = {"image": {"_type": "Image"}, "label": label, "image_id": {"dtype": "int64", "_type": "Value"}}
    metadata = {
        _INFO_KEY: info.model_dump_json().encode(),
        _HUGGINGFACE_KEY: json.dumps({"info": {"features": features}}).encode(),
    }
    return pa.schema(FIELDS, metadata=metadata)
