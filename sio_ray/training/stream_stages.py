"""The two stages of a stream: row groups are read in the order of their use, and pictures decoded and augmented."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from sio_ray.classifier.augment import Augmentation, Draws
from sio_ray.classifier.feed.ahead import OneAhead
from sio_ray.classifier.feed.order import Indices, Window, WindowedOrder
from sio_ray.classifier.feed.plan import Group, Source
from sio_ray.cluster import limit_threads
from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet
from sio_ray.imageset.files import open_shard
from sio_ray.imageset.pictures import decode_picture

#: Row groups that a reader fetches at a time: an object store answers late, but many at once.
_READS_AT_A_TIME = 8

#: Read tasks of one execution; Ray Data takes a second more to start for every thousand.
_MAX_READ_TASKS = 256


@dataclass(frozen=True)
class Stream:
    """What both stages must know of one worker's stream of one source.

    Attributes:
        uri: of the set.
        source: which of the feed's.
        seed: of order and augmentation.
        window: images that are shuffled together.
        start: first position of the source's endless stream that is wanted.
        stop: the one behind the last.
        num_per_step: images of the source in a global batch.
        local: those of them that are this worker's.
        group: what they are augmented with.
        group_size: pictures of the group in a global batch.
        first_place: where the source's pictures begin among them.
        augmentation: of all pictures.
    """

    uri: str
    source: Source
    seed: int
    window: int
    start: int
    stop: int
    num_per_step: int
    local: Indices
    group: Group
    group_size: int
    first_place: int
    augmentation: Augmentation


def order_of(image_set: ImageSet, window: int, source: Source, seed: int) -> WindowedOrder:
    """The order of a set's passes."""
    return WindowedOrder([shard.num_images for shard in image_set.manifest.shards], window, source, seed)


class WindowSource(Datasource):  # type: ignore[misc]
    """The first stage: Ray Data's reader of windows, in few tasks of many windows each."""

    def __init__(self, stream: Stream, windows: list[Window]) -> None:
        super().__init__()
        self._stream, self._windows = stream, windows
        self.num_tasks = min(len(windows), _MAX_READ_TASKS)

    def estimate_inmemory_data_size(self) -> int | None:
        """See `Datasource`."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """See `Datasource`."""
        parts = np.array_split(np.arange(len(self._windows)), self.num_tasks)
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(read_windows, self._stream, [self._windows[i] for i in part]), metadata) for part in parts
        ]


def read_windows(stream: Stream, windows: list[Window]) -> Iterator[pa.Table]:
    """Read this worker's rows of windows, each window in the order of use, with the next one being read meanwhile.

    Returns:
        Tables of `picture` (encoded), `label`, `image_id`, `row` (of the set) and `position` (in the endless stream).

    Raises:
        ImageSetError: a shard is missing, or cannot be read.
    """
    image_set = ImageSet(stream.uri)
    order = order_of(image_set, stream.window, stream.source, stream.seed)
    groups_of = lru_cache(maxsize=2)(order.windows)
    with ThreadPoolExecutor(_READS_AT_A_TIME) as pool:

        def read(index: int) -> pa.Table:
            window = windows[index]
            groups = groups_of(window.number, window.size)[window.index]
            rows = order.shuffled(window.number, window.index, groups)
            positions = window.position + np.arange(len(rows))
            places = positions % stream.num_per_step
            mine = (positions >= stream.start) & (positions < stream.stop) & np.isin(places, stream.local)
            rows, positions = rows[mine], positions[mine]
            wanted = [np.sort(rows[(rows >= start) & (rows < stop)]) for start, stop in groups]
            wanted = [of_group for of_group in wanted if len(of_group)]
            if not wanted:
                return None
            table = pa.concat_tables(pool.map(partial(_read_rows, image_set, order), wanted))
            read_rows = np.concatenate(wanted)
            by_row = read_rows.argsort()
            table = table.take(by_row[np.searchsorted(read_rows, rows, sorter=by_row)])
            return table.append_column("row", pa.array(rows)).append_column("position", pa.array(positions))

        ahead = OneAhead(read, num_steps=len(windows))
        try:
            for index in range(len(windows)):
                if (table := ahead(index)) is not None:
                    yield table
        finally:
            ahead.close()


def _read_rows(image_set: ImageSet, order: WindowedOrder, rows: Indices) -> pa.Table:
    """Read ascending rows of one shard; only the row groups that hold them."""
    shard_id = int(np.searchsorted(order.shard_starts, rows[0], side="right")) - 1
    shard, rows = image_set.manifest.shards[shard_id], rows - order.shard_starts[shard_id]
    with open_shard(image_set.folder, shard.name) as parquet:
        metadata = parquet.metadata
        starts = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
        if starts[-1] != shard.num_images:
            raise ImageSetError(
                f"{image_set.folder.join(shard.name)} has {starts[-1]} rows, its manifest says {shard.num_images}; "
                "write the set again."
            )
        first, last = (int(np.searchsorted(starts, row, side="right")) - 1 for row in (rows[0], rows[-1]))
        columns = ["image.bytes", "label", "image_id"]
        table = parquet.read_row_groups(range(first, last + 1), columns=columns, use_threads=False)
        # Large: a window of pictures may have more than the 2 GB that offsets of 32 bits reach.
        pictures = table.column("image").combine_chunks().field("bytes").cast(pa.large_binary())
        names = ["picture", "label", "image_id"]
        table = pa.table([pictures, table.column("label"), table.column("image_id")], names=names)
        return table.take(rows - starts[first])


class Decoder:
    """The second stage, an actor: decodes pictures and does to each what was drawn for its step and place."""

    def __init__(self, stream: Stream) -> None:
        limit_threads(1)
        self._stream, self._set = stream, ImageSet(stream.uri)
        self._shard_starts = order_of(self._set, stream.window, stream.source, stream.seed).shard_starts

    def __call__(self, table: pa.Table) -> dict[str, Any]:
        """Decode what `read_windows` gives.

        Returns:
            `images` (N, C, H, W) uint8, `labels` and `positions` (N,) int64.

        Raises:
            ImageSetError: a picture cannot be decoded, or its label is out of range; the shard is named.
        """
        info = self._set.info
        labels, positions = table.column("label").to_numpy(), table.column("position").to_numpy()
        shards = np.searchsorted(self._shard_starts, table.column("row").to_numpy(), side="right") - 1
        images = np.empty((len(labels), *info.image_shape), dtype=np.uint8)
        rows = zip(table.column("picture"), labels.tolist(), table.column("image_id").to_pylist(), shards, strict=True)
        for image, (picture, label, image_id, shard) in zip(images, rows, strict=True):
            where = f"image_id {image_id} of {self._set.folder.join(self._set.manifest.shards[shard].name)}"
            image[:] = decode_picture(picture.as_py(), info.image_shape, where)
            if not (0 <= label < info.num_classes or (label == -1 and not info.num_classes)):
                raise ImageSetError(f"{where} has label {label}, which its set does not allow; write the set again.")
        augmented = self._stream.augmentation.apply(torch.from_numpy(images), self._draws(positions))
        return {"images": augmented.numpy(), "labels": labels, "positions": positions}

    def _draws(self, positions: Indices) -> Draws:
        """What is drawn for the images at ascending positions of the stream."""
        stream, shape = self._stream, self._set.info.image_shape
        steps, firsts = np.unique(positions // stream.num_per_step, return_index=True)
        places = np.split(stream.first_place + positions % stream.num_per_step, firsts[1:])
        return np.concatenate(
            [
                stream.augmentation.draw(shape, stream.group_size, stream.seed, step, stream.group)[of_step]
                for step, of_step in zip(steps.tolist(), places, strict=True)
            ]
        )
