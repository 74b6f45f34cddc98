"""Draws one shard of a plan and writes it whole; the unit of work that actors repeat."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from sio_ray.errors import GenerationError
from sio_ray.generate.notes import DrawnShard, Seconds, write_note
from sio_ray.generate.plan import Batch, Int64Array, Plan
from sio_ray.generate.samplers.base import Sampler
from sio_ray.imageset import ImageSetInfo, ShardEntry
from sio_ray.imageset.pictures import UInt8Array, encode_png
from sio_ray.imageset.shard import decode_shard, pack_shard, rejected_ids
from sio_ray.imageset.storage import Folder

if TYPE_CHECKING:
    from sio_ray.generate.curation import Curator

#: Rows of a shard, and their pictures as PNG with the seconds that took.
_EncodedRows = tuple[list[int], "Future[tuple[list[bytes], float]]"]


class ShardWriter:
    """Draws shards of one plan into one folder.

    Two threads may draw a shard each: one samples while the other's pictures are packed and written, and pictures are
    encoded on a third thread as soon as they are drawn. The sampler itself is never entered twice.

    Args:
        sampler: draws pictures.
        plan: what to draw.
        info: constants of the set.
        folder: where shards go.
        curator: rejects pictures; None keeps all.
    """

    def __init__(
        self, sampler: Sampler, plan: Plan, info: ImageSetInfo, folder: Folder, curator: Curator | None = None
    ) -> None:
        self._sampler, self._plan, self._info, self._folder, self._curator = sampler, plan, info, folder, curator
        self._sampling = threading.Lock()
        self._encoder = ThreadPoolExecutor(max_workers=1)

    @property
    def device_name(self) -> str:
        """What draws, such as `cpu AVX2` or the name of a GPU."""
        return self._sampler.device_name

    def do(self, shard_id: int) -> DrawnShard:
        """Draw a shard and write it whole.

        Raises:
            GenerationError: the sampler gave pictures of another shape than the set's, or the curation rule rejected
                every picture for some place.
            ConfigError: the sampler's batch does not fit the device.
            ResourceError: the folder cannot be written.
        """
        with self._sampling:
            start_s = time.perf_counter()
            image_ids, batches, rejected = self._sample(shard_id)
            sample_s = time.perf_counter() - start_s
        pictures: dict[int, bytes] = {}
        encode_s = 0.0
        for rows, future in batches:
            encoded, batch_s = future.result()
            pictures.update(zip(rows, encoded, strict=True))
            encode_s += batch_s
        start_s = time.perf_counter()
        ordered = [pictures[row] for row in range(len(image_ids))]
        data = pack_shard(self._info, ordered, self._plan.labels(image_ids), image_ids, rejected_ids=rejected)
        drawn = DrawnShard(
            shard_id=shard_id,
            entry=ShardEntry.of(
                self._plan.shard_name(shard_id),
                len(image_ids),
                data,
                num_rejected=len(rejected),
                device=self.device_name,
            ),
        )
        self._folder.write_bytes(drawn.entry.name, data)
        write_s = time.perf_counter() - start_s
        drawn = drawn.model_copy(update={"seconds": Seconds(sample_s=sample_s, encode_s=encode_s, write_s=write_s)})
        write_note(self._folder, drawn)
        return drawn

    def _sample(self, shard_id: int) -> tuple[Int64Array, list[_EncodedRows], list[int]]:
        """Draw until every place of a shard is filled: final image ids, pictures being encoded, rejected ids."""
        image_ids = self._plan.places(shard_id)
        batches: list[_EncodedRows] = []
        rejected: list[int] = []
        waiting = np.arange(len(image_ids))
        attempts = self._curator.max_attempts if self._curator else 1
        for _ in range(attempts):
            kept = np.zeros(len(waiting), dtype=bool)
            start = 0
            for batch in self._plan.batches(image_ids[waiting]):
                pictures = self._pictures(shard_id, batch)
                part = slice(start, start + batch.num_wanted)
                kept[part] = self._curator.keeps(pictures, batch.labels)[: batch.num_wanted] if self._curator else True
                rows = waiting[part][kept[part]]
                future = self._encoder.submit(_encode, pictures[: batch.num_wanted][kept[part]])
                batches.append((rows.tolist(), future))
                start += batch.num_wanted
            waiting = waiting[~kept]
            if not len(waiting):
                return image_ids, batches, sorted(rejected)
            rejected += image_ids[waiting].tolist()
            image_ids[waiting] += self._plan.stride
        names = sorted({self._info.class_names[label] for label in self._plan.labels(image_ids[waiting])})
        raise GenerationError(
            f"shard {shard_id}: the curation rule rejected {attempts} pictures "
            f"in a row for {len(waiting)} places of class {', '.join(names)}; widen the range from "
            "generate.curation.min_confidence to max_confidence, or use a better generator or classifier."
        )

    def _pictures(self, shard_id: int, batch: Batch) -> UInt8Array:
        try:
            pictures = self._sampler.sample(batch.labels, batch.seeds)
        except RuntimeError as error:
            # Imported here, as a sampler that ran out of GPU memory has loaded it, and others may do without.
            from sio_ray.generate.calibrate import batch_does_not_fit, ran_out_of_memory

            if not ran_out_of_memory(error):
                raise
            raise batch_does_not_fit(self._sampler, batch) from None
        if pictures.shape != (len(batch.labels), *self._info.image_shape) or pictures.dtype != np.uint8:
            raise GenerationError(
                f"shard {shard_id}: the sampler gave {pictures.dtype} pictures of shape {pictures.shape}, the set has "
                f"uint8 {(len(batch.labels), *self._info.image_shape)}; use a generator that fits the set."
            )
        return pictures


def adopt_shard(plan: Plan, info: ImageSetInfo, folder: Folder, is_curated: bool, shard_id: int) -> DrawnShard:
    """Describe a shard that an earlier run wrote, once it is seen to hold what the plan says.

    Raises:
        ImageSetError: it does not decode.
        GenerationError: it holds other images.
    """
    name, places = plan.shard_name(shard_id), plan.places(shard_id)
    data = folder.read_bytes(name)
    _, labels, image_ids = decode_shard(data, info, folder.join(name))
    # A rejected picture was replaced by one whose id is whole strides further.
    if not np.array_equal(image_ids % plan.stride if is_curated else image_ids, places) or not np.array_equal(
        labels, plan.labels(image_ids)
    ):
        raise GenerationError(f"{folder.join(name)} holds other images than the plan says.")
    rejected = rejected_ids(data)
    # By what device it was drawn went with the note that was lost.
    drawn = DrawnShard(shard_id=shard_id, entry=ShardEntry.of(name, len(places), data, num_rejected=len(rejected)))
    write_note(folder, drawn)
    return drawn


def _encode(pictures: UInt8Array) -> tuple[list[bytes], float]:
    start_s = time.thread_time()
    return [encode_png(picture) for picture in pictures], time.thread_time() - start_s
