"""Checks every shard of a finished image set against its manifest, in parallel."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset.files import check_layout, read_checked
from sio_ray.imageset.manifest import MANIFEST_NAME, Manifest, ShardEntry
from sio_ray.imageset.pictures import decode_picture
from sio_ray.imageset.schema import ImageSetInfo, arrow_schema
from sio_ray.imageset.shard import rejected_ids
from sio_ray.imageset.storage import PARTIAL_SUFFIX, Folder
from sio_ray.imageset.writer import class_counts
from sio_ray.reading import parse_json, reason_of

#: A process that is started for fewer shards costs more than it saves.
_SHARDS_PER_PROCESS = 8


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs to judge one shard.

    Attributes:
        uri: of the set's folder.
        shard: what the manifest says of it.
        info: constants of the set.
        start: position in the set of its first image.
        id_stride: how far apart the ids are that may fill one place; None where every id is its place.
    """

    uri: str
    shard: ShardEntry
    info: ImageSetInfo
    start: int
    id_stride: int | None


@dataclass(frozen=True)
class Verdict:
    """What a check of a whole set found.

    Attributes:
        num_images: by the manifest.
        num_shards: by the manifest.
        num_bytes: by the manifest.
        bad_shards: name of a shard to the first thing that is wrong with it.
        problems: what is wrong with the set as a whole.
        leftovers: half-written files of a killed writer; no reader looks at them, so they are no fault.
        wall_s: how long the check took.
    """

    num_images: int
    num_shards: int
    num_bytes: int
    bad_shards: dict[str, str]
    problems: tuple[str, ...]
    leftovers: tuple[str, ...]
    wall_s: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.bad_shards and not self.problems


def verify_image_set(
    uri: str, *, num_workers: int | None = None, on_shard: Callable[[int, int], None] | None = None
) -> Verdict:
    """Read and decode a whole set, and look for files that do not belong to it.

    Args:
        uri: path or URI of the set's folder.
        num_workers: processes, each with one shard in memory; as many as cores if not given, 1 checks in this one.
            They are spawned, so a script that calls this needs `if __name__ == "__main__"`.
        on_shard: called after each shard with the number of shards checked, and of all.

    Raises:
        ImageSetError: there is no finished set, or its manifest cannot be read.
        ResourceError: a worker died.
    """
    began = time.perf_counter()
    folder = Folder(uri)
    manifest = Manifest.read(folder)
    starts = np.cumsum([0, *(shard.num_images for shard in manifest.shards)]).tolist()
    # Only where pictures were rejected do others stand in their places.
    id_stride = manifest.info.id_stride if manifest.num_rejected else None
    tasks = [
        ShardTask(uri, shard, manifest.info, start, id_stride)
        for shard, start in zip(manifest.shards, starts, strict=False)
    ]
    reasons: dict[str, str] = {}
    counts = np.zeros(manifest.info.num_classes, dtype=np.int64)
    for done, (task, result) in enumerate(_check_all(tasks, num_workers or os.cpu_count() or 1), start=1):
        if isinstance(result, str):
            reasons[task.shard.name] = result
        else:
            counts += result
        if on_shard is not None:
            on_shard(done, len(tasks))
    files = folder.files()
    problems = _problems(manifest, None if reasons else tuple(counts.tolist()))
    named = {shard.name for shard in manifest.shards}
    problems += [
        f"{name} is not in the manifest, but other readers would take it for a shard; delete it"
        for name in sorted(files)
        if name.startswith("part-") and name not in named and not name.endswith(PARTIAL_SUFFIX)
    ]
    return Verdict(
        num_images=manifest.num_images,
        num_shards=len(manifest.shards),
        num_bytes=manifest.num_bytes,
        bad_shards=dict(sorted(reasons.items())),
        problems=tuple(problems),
        leftovers=tuple(sorted(name for name in files if name.endswith(PARTIAL_SUFFIX))),
        wall_s=time.perf_counter() - began,
    )


def _problems(manifest: Manifest, counts: tuple[int, ...] | None) -> list[str]:
    """What the manifest contradicts itself or the shards in; `counts` is None where shards are bad."""
    problems = [
        f"{MANIFEST_NAME} names {name} {count} times"
        for name, count in Counter(shard.name for shard in manifest.shards).items()
        if count > 1
    ]
    if counts is not None and counts != manifest.class_counts:
        wrong = ", ".join(
            f"{name} {found:,} not {said:,}"
            for name, found, said in zip(manifest.info.class_names, counts, manifest.class_counts, strict=True)
            if found != said
        )
        problems.append(f"{MANIFEST_NAME} has wrong class counts ({wrong})")
    return problems


def check_shard(task: ShardTask) -> npt.NDArray[np.int64] | str:
    """Check one shard; only one row group of decoded pictures is in memory beside its bytes.

    Returns:
        Images of each class, (C,) int64, or the first thing that is wrong.
    """
    try:
        data = read_checked(Folder(task.uri), task.shard)
        with pq.ParquetFile(io.BytesIO(data)) as parquet:
            _check_schema(parquet.schema_arrow, task.info)
            check_layout(parquet)
            rows = parquet.metadata.num_rows
            if rows != task.shard.num_images:
                return f"has {rows:,} rows, the manifest says {task.shard.num_images:,}"
            if len(rejected_ids(data)) != task.shard.num_rejected:
                return f"names {len(rejected_ids(data))} rejected ids, the manifest says {task.shard.num_rejected}"
            labels, image_ids = (_integers(parquet, name) for name in ("label", "image_id"))
            _check_ids(image_ids, task)
            _check_labels(labels, image_ids, task.info)
            row = 0
            for group in range(parquet.num_row_groups):
                pictures = parquet.read_row_group(group, ["image"]).column(0).combine_chunks()
                for picture in pictures.field("bytes"):
                    decode_picture(picture.as_py(), task.info.image_shape, f"image_id {image_ids[row]}")
                    row += 1
    except ImageSetError as error:
        return str(error)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        return f"is no readable Parquet file ({reason_of(error)})"
    return class_counts(labels, task.info)


def _check_schema(schema: pa.Schema, info: ImageSetInfo) -> None:
    expected = arrow_schema(info)
    if not schema.equals(expected):
        raise ImageSetError(f"has columns {_columns(schema)}, a set has {_columns(expected)}")
    metadata = schema.metadata or {}
    for key, value in expected.metadata.items():
        # As JSON, since the order of keys has no meaning.
        if parse_json(metadata.get(key, b"null")) != parse_json(value):
            raise ImageSetError(f"has other constants than the manifest (schema metadata {key.decode()})")


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _integers(parquet: pq.ParquetFile, name: str) -> npt.NDArray[np.int64]:
    column = parquet.read([name]).column(0)
    if column.null_count:
        raise ImageSetError(f"has {column.null_count} nulls in column {name}")
    return column.to_numpy()  # type: ignore[no-any-return]


def _check_ids(image_ids: npt.NDArray[np.int64], task: ShardTask) -> None:
    """Compare ids with places; what passes is unique over the whole set, so nothing has to be collected.

    Picture number `a` that was tried for a place has the id `place + a * id_stride`.
    """
    places = np.arange(task.start, task.start + len(image_ids))
    wrong = (image_ids % task.id_stride != places) | (image_ids < 0) if task.id_stride else image_ids != places
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        repeated = len(np.unique(image_ids)) < len(image_ids)
        rule = f"{places[row]}" + (f" plus a multiple of {task.id_stride}" if task.id_stride else "")
        raise ImageSetError(
            f"has image_id {image_ids[row]} at row {row}, where {rule} must be"
            + ("; some of its ids are there twice" if repeated else "")
        )


def _check_labels(labels: npt.NDArray[np.int64], image_ids: npt.NDArray[np.int64], info: ImageSetInfo) -> None:
    outside = (labels < 0) | (labels >= info.num_classes) if info.num_classes else labels != -1
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        allowed = f"[0, {info.num_classes})" if info.num_classes else "-1 (an OOD set)"
        raise ImageSetError(f"has label {labels[row]} at image_id {image_ids[row]}, the set allows {allowed}")


def _check_all(tasks: Sequence[ShardTask], num_workers: int) -> Iterator[tuple[ShardTask, npt.NDArray[np.int64] | str]]:
    """Check shards as they come, in this process where there are few."""
    num_workers = min(num_workers, len(tasks) // _SHARDS_PER_PROCESS)
    if num_workers < 2:
        for task in tasks:
            yield task, check_shard(task)
        return
    # Spawned, as a fork of a process that has threads (pyarrow's) may hang.
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_leave_interrupts) as pool:
        futures = {pool.submit(check_shard, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenExecutor as error:
            raise ResourceError(
                "a process that checks shards died, as happens when memory runs out; check with fewer (--workers 1)."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Let Ctrl-C be heard by the parent alone, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
