"""Writes the sets of a source shard by shard, each exactly once, in any process and after any interruption."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.datasets.source import Int64Array, PictureSet
from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSetInfo, Manifest, ShardEntry
from sio_ray.imageset.files import is_shard
from sio_ray.imageset.foreign_pictures import bombs_are_errors
from sio_ray.imageset.pictures import encode_png
from sio_ray.imageset.schema import arrow_schema
from sio_ray.imageset.shard import pack_shard, shard_name
from sio_ray.imageset.storage import Folder
from sio_ray.imageset.writer import check_counts, class_counts

#: A shard is of at most so many pictures, and of so many bytes of pixels: 1,024 pictures of 256 px.
_MAX_IMAGES_PER_SHARD = 4096
_MAX_PIXEL_BYTES_PER_SHARD = 1024 * 3 * 256 * 256


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: all that a worker needs.

    Attributes:
        folder: of the image set.
        info: constants of the set.
        name: of the shard's file.
        part: the rows of the source that belong into it.
        start: row of the first, and its image id if no picture before it is skipped.
        skips_corrupt: leave out pictures that do not decode.
    """

    folder: Folder
    info: ImageSetInfo
    name: str
    part: PictureSet
    start: int
    skips_corrupt: bool


@dataclass(frozen=True)
class WrittenShard:
    """What a shard holds.

    Attributes:
        entry: of the manifest.
        start: its first image id.
        counts: (C,) int64, images of each class.
        skipped: paths of the pictures that were left out.
        is_new: it was written now, not by an interrupted run.
    """

    entry: ShardEntry
    start: int
    counts: Int64Array
    skipped: tuple[str, ...]
    is_new: bool


def shard_tasks(folder: Folder, info: ImageSetInfo, pictures: PictureSet, *, skips_corrupt: bool) -> list[ShardTask]:
    """Divide a set into shards of equal size, or one more.

    Raises:
        ImageSetError: it holds no picture.
    """
    if not len(pictures):
        raise ImageSetError(f"image set {folder.safe_uri} would hold no picture; give at least one.")
    per_shard = min(_MAX_IMAGES_PER_SHARD, max(1, _MAX_PIXEL_BYTES_PER_SHARD // int(np.prod(info.image_shape))))
    parts = np.array_split(np.arange(len(pictures)), -(-len(pictures) // per_shard))
    return [
        ShardTask(folder, info, shard_name(number, len(parts)), pictures.take(rows), int(rows[0]), skips_corrupt)
        for number, rows in enumerate(parts)
    ]


def write_shard(task: ShardTask, num_threads: int | None = None) -> WrittenShard:
    """Write a shard, unless it is there already from an interrupted run; only its PNG bytes are held in memory.

    Args:
        task: what to write.
        num_threads: that decode and encode; as many as cores if not given.

    Raises:
        ImageSetError: a picture does not decode, and none is to be skipped; or all are skipped.
        ResourceError: the folder cannot be written.
    """
    there = _adopt(task)
    if there is not None:
        return there
    part = task.part
    with bombs_are_errors(), ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        try:
            pictures = list(pool.map(lambda row: _encode(task, row), range(len(part))))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    kept = np.flatnonzero([picture is not None for picture in pictures])
    skipped = tuple(path for path, picture in zip(part.paths, pictures, strict=True) if picture is None)
    if not len(kept):
        raise ImageSetError(
            f"none of the {len(part):,} pictures of {task.folder.join(task.name)} decodes, such as {part.paths[0]}; "
            "mend the source."
        )
    labels, image_ids = part.labels[kept], np.arange(task.start, task.start + len(kept), dtype=np.int64)
    data = pack_shard(task.info, [p for p in pictures if p is not None], labels, image_ids, part.take(kept).paths)
    task.folder.write_bytes(task.name, data)
    return _describe(task, data, task.start, labels, skipped, is_new=True)


def commit(tasks: Sequence[ShardTask], written: Sequence[WrittenShard]) -> Manifest:
    """Finish a set whose shards are all written: number its pictures without gaps, then write the manifest.

    Args:
        tasks: of one set, in order.
        written: what became of each.

    Raises:
        ImageSetError: a class has no picture left.
    """
    folder, info = tasks[0].folder, tasks[0].info
    counts = np.sum([shard.counts for shard in written], axis=0)
    check_counts(folder.safe_uri, info, counts)
    entries, start = [], 0
    for task, shard in zip(tasks, written, strict=True):
        entries.append(shard.entry if shard.start == start else _renumber(task, start))
        start += shard.entry.num_images
    names = {entry.name for entry in entries}
    for stale in [name for name in folder.files() if is_shard(name) and name not in names]:
        folder.delete(stale)  # of a source that has changed since
    folder.sweep()
    manifest = Manifest(info=info, num_images=start, class_counts=tuple(counts.tolist()), shards=tuple(entries))
    manifest.write(folder)
    return manifest


def _encode(task: ShardTask, row: int) -> bytes | None:
    """One picture as PNG; None if it is skipped."""
    try:
        return encode_png(task.part.read(row))
    except ImageSetError as error:
        if task.skips_corrupt:
            return None
        remedy = "or leave out such pictures with prepare.on_corrupt=skip"
        raise ImageSetError(f"{str(error).rstrip('.')}, {remedy}.") from error


def _adopt(task: ShardTask) -> WrittenShard | None:
    """Describe the shard that is there if it holds the task's pictures, as far as paths and labels tell."""
    try:
        data = task.folder.read_bytes(task.name)
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return None
    if not len(table) or not table.schema.equals(arrow_schema(task.info), check_metadata=True):
        return None
    paths = table.column("image").combine_chunks().field("path").to_pylist()
    labels, image_ids = (table.column(name).to_numpy() for name in ("label", "image_id"))
    start = int(image_ids[0])
    wanted = list(zip(task.part.paths, task.part.labels.tolist(), strict=True))
    rest = iter(wanted)
    in_order = all(pair in rest for pair in zip(paths, labels.tolist(), strict=True))  # each after the one before
    is_short = len(paths) < len(wanted)
    if not in_order or (is_short and not task.skips_corrupt) or (image_ids != np.arange(len(table)) + start).any():
        return None
    found = set(paths)
    skipped = tuple(path for path, _ in wanted if path not in found)
    return _describe(task, data, start, labels, skipped, is_new=False)


def _describe(
    task: ShardTask, data: bytes, start: int, labels: Int64Array, skipped: tuple[str, ...], *, is_new: bool
) -> WrittenShard:
    entry = ShardEntry.of(task.name, len(labels), data)
    return WrittenShard(entry, start, class_counts(labels, task.info), skipped, is_new)


def _renumber(task: ShardTask, start: int) -> ShardEntry:
    """Write a shard again with other image ids, as pictures before it were skipped."""
    table = pq.read_table(io.BytesIO(task.folder.read_bytes(task.name)))
    pictures = table.column("image").combine_chunks()
    data = pack_shard(
        task.info,
        pictures.field("bytes").to_pylist(),
        table.column("label").to_numpy(),
        np.arange(start, start + len(table), dtype=np.int64),
        pictures.field("path").to_pylist(),
    )
    task.folder.write_bytes(task.name, data)
    return ShardEntry.of(task.name, len(table), data)
