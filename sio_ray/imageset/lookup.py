"""Takes pictures out of a set by their ids, reading only the row groups that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from sio_ray.errors import ImageSetError
from sio_ray.imageset.files import open_shard
from sio_ray.imageset.pictures import UInt8Array, decode_picture
from sio_ray.imageset.reader import ImageSet


def pictures_by_id(image_set: ImageSet, image_ids: Iterable[int]) -> dict[int, tuple[UInt8Array, int]]:
    """Decode some pictures of a set.

    Args:
        image_set: a finished set.
        image_ids: of the pictures.

    Returns:
        Id to the picture, (C, H, W) uint8, and its label.

    Raises:
        ImageSetError: no such id, a shard that is needed is missing, or a picture does not decode.
    """
    wanted = {int(image_id) for image_id in image_ids}
    found: dict[int, tuple[UInt8Array, int]] = {}
    for shard_id in _visiting_order(image_set, wanted):
        missing = np.array(sorted(wanted - found.keys()))
        if not len(missing):
            break
        name = image_set.manifest.shards[shard_id].name
        where = image_set.folder.join(name)
        with open_shard(image_set.folder, name) as parquet:
            here = np.isin(parquet.read(["image_id"]).column(0).to_numpy(), missing)
            start = 0
            for group in range(parquet.num_row_groups):
                num_rows = parquet.metadata.row_group(group).num_rows
                rows = np.flatnonzero(here[start : start + num_rows])
                start += num_rows
                if len(rows):
                    stored = parquet.read_row_group(group, ["image", "label", "image_id"]).take(rows).to_pylist()
                    for row, of_group in zip(stored, rows.tolist(), strict=True):
                        place = f"row {of_group} of row group {group} of {where}"
                        picture = decode_picture(row["image"]["bytes"], image_set.info.image_shape, place)
                        found[row["image_id"]] = picture, row["label"]
    if wanted - found.keys():
        raise ImageSetError(
            f"image set {image_set} must hold image_id {min(wanted - found.keys())}, got none; it was written again "
            "since its images were named, so run the stage that named them again."
        )
    return found


def _visiting_order(image_set: ImageSet, image_ids: set[int]) -> Iterator[int]:
    """The shards where the ids lie if they count the images, as those of real sets do; then all others."""
    ends = np.cumsum([shard.num_images for shard in image_set.manifest.shards])
    likely = np.searchsorted(ends, sorted(image_ids), side="right").tolist()
    shards = range(len(ends))
    return iter(dict.fromkeys([*(shard for shard in likely if shard in shards), *shards]))
