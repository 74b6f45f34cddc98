"""The feed of sets of any size: Ray Data reads and decodes one stream per source, the worker zips them into batches."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from torch import Tensor

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed.ahead import OneAhead
from sio_ray.classifier.feed.order import Indices, Window
from sio_ray.classifier.feed.plan import GROUPS, FeedPlan, Source
from sio_ray.classifier.feed.sources import Assembly, Gathered, Sources, check_shapes
from sio_ray.cluster import our_cause
from sio_ray.imageset import ImageSet
from sio_ray.training.stream_stages import Decoder, Stream, WindowSource, order_of

#: Ray Data cuts what a stage gives into blocks of this size; each is one call of a decoder.
_BLOCK_BYTES = 4 * 2**20

#: What one stream may hold in Ray's object store.
_STORE_BYTES = 32 * _BLOCK_BYTES


class StreamedSet(NamedTuple):
    """A set that is read as it is used.

    Attributes:
        uri: of the set.
        limit: only the images of so many lowest ids; None for all.
    """

    uri: str
    limit: int | None = None


class StreamingFeed:
    """Mixed batches of sets that are read as they are used; see `Feed`.

    Every source is one Ray Data execution from the step that is asked for to the last. It reads the row groups of one
    window after the other, with two windows of encoded pictures in memory, and keeps this worker's images in the order
    of their use; actors on the worker's node decode and augment them; the worker cuts the streams into batches. So
    memory does not grow with the sets. Each worker reads all row groups, as images are dealt out one by one and batches
    are the same for any number of workers; reading is a small part of the work.

    Bytes are not compared with the manifest's SHA-256, which is of whole shards; `sio-ray images verify` does that.

    Args:
        sources: the sets.
        window: images of a source that are shuffled together; see `WindowedOrder`.
        num_steps: of the run; nothing is read for later ones.
        num_decoders: processes that decode each source for this worker; those of all sources together keep about so
            many CPU cores busy. They ask Ray for none: whoever starts the worker gives it these too, as workers that
            take all cores of a cluster would wait without end for decoders on others.
        global_batch_size: this and all that follow are those of `MemoryFeed`.
        real_batch_share: see there.
        num_outliers: see there.
        augmentation: see there.
        seed: see there.
        rank: see there.
        world_size: see there.
        device: see there.
        pool_size: see there.

    Raises:
        BatchError: a batch cannot be composed so, or the sets differ in picture size.
        ConfigError: larger pictures are asked for than there are, or `real_batch_share` is out of range.
        ImageSetError: a set is missing or unfinished; from `batch`, a shard is missing or corrupt.
    """

    def __init__(
        self,
        sources: Sources[StreamedSet],
        *,
        window: int,
        num_steps: int,
        num_decoders: int = 1,
        global_batch_size: int,
        real_batch_share: float,
        num_outliers: int = 0,
        augmentation: Augmentation,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        pool_size: Callable[[int], int] | None = None,
    ) -> None:
        self._sets = {source: ImageSet(given.uri) for source, given in sources.given().items()}
        check_shapes({source: image_set.info.image_shape for source, image_set in self._sets.items()})
        augmentation.output_shape(self._sets["real"].info.image_shape)  # refuses a size that cannot be
        sizes = {source: self._sets[source].count(given.limit) for source, given in sources.given().items()}
        self._orders = {source: order_of(image_set, window, source, seed) for source, image_set in self._sets.items()}
        self.plan = FeedPlan(
            sizes,
            lambda source: self._orders[source].of_pass,
            global_batch_size=global_batch_size,
            real_batch_share=real_batch_share,
            num_outliers=num_outliers,
            rank=rank,
            world_size=world_size,
            pool_size=pool_size,
        )
        self.composition = self.plan.composition
        self.wait_s = 0.0
        self._window, self._num_steps, self._num_decoders = window, num_steps, num_decoders
        self._augmentation, self._seed, self._device = augmentation, seed, torch.device(device)
        self._assembly = Assembly(self.plan, self._device)
        self._streams: dict[Source, _DecodedStream] = {}
        self._next_step = -1
        self._ahead = OneAhead(self._read, num_steps)

    def batch(self, step: int) -> MixedBatch:
        """See `Feed`; a step that does not follow the one before starts the streams again, which takes seconds."""
        start_s = time.perf_counter()
        batch = self._assembly.batch(self._ahead(step))
        self.wait_s += time.perf_counter() - start_s
        return batch

    def close(self) -> None:
        """See `Feed`."""
        self._ahead.close()
        self._stop()

    def _read(self, step: int) -> Gathered:
        if step != self._next_step:
            self._stop()
            self._streams = {source: self._start(source, step) for source in self.plan.counts}
        self._next_step = -1  # until this step is read
        taken = {
            source: stream.take(step * self.plan.counts[source] + self.plan.local[source])
            for source, stream in self._streams.items()
        }
        self._next_step = step + 1
        gathered = Gathered(
            {
                group: torch.cat([taken[source][0] for source in members])
                for group, members in self.plan.members.items()
            },
            torch.cat([taken[source][1] for source in self.plan.members["images"]]),
        )
        return gathered.pinned() if self._device.type == "cuda" else gathered

    def _start(self, source: Source, step: int) -> _DecodedStream:
        plan, image_set = self.plan, self._sets[source]
        count, local = plan.counts[source], plan.local[source]
        shape = self._augmentation.output_shape(image_set.info.image_shape)
        start, stop = step * count, self._num_steps * count
        if not len(local):
            return _DecodedStream(iter(()), shape)
        stream = Stream(
            uri=image_set.uri,
            source=source,
            seed=self._seed,
            window=self._window,
            start=start,
            stop=stop,
            num_per_step=count,
            local=local,
            group=GROUPS[source],
            group_size=plan.group_sizes[GROUPS[source]],
            first_place=int(plan.places[source][0] - local[0]),
            augmentation=self._augmentation,
        )
        windows = self._orders[source].between(plan.passes[source], start, stop)
        return _DecodedStream(_run(stream, windows, self._num_decoders), shape)

    def _stop(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams, self._next_step = {}, -1


def _run(stream: Stream, windows: list[Window], num_decoders: int) -> Iterator[dict[str, Any]]:
    """Run the stages as one Ray Data execution; blocks of what `Decoder` gives, in order."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray Data's own loses its cause on the way
    context.target_max_block_size = _BLOCK_BYTES
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=_STORE_BYTES)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised
    # The end of a stream may be less than a block for each decoder.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", category=UserWarning)
    with DataContext.current(context):
        source = WindowSource(stream, windows)
        encoded = ray.data.read_datasource(source, num_cpus=0, concurrency=1, override_num_blocks=source.num_tasks)
        decoded = encoded.map_batches(
            Decoder,
            fn_constructor_args=(stream,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=num_decoders),
            num_cpus=0,
            label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
        )
        return iter(decoded.iter_batches(batch_size=None, batch_format="numpy"))


class _DecodedStream:
    """Blocks of decoded pictures, cut into what each step needs.

    Args:
        blocks: of what `Decoder` gives.
        shape: (C, H, W) of the pictures.
    """

    def __init__(self, blocks: Iterator[dict[str, Any]], shape: tuple[int, int, int]) -> None:
        self._blocks = blocks
        none = np.empty(0, np.int64)
        self._block: dict[str, Any] = {"images": np.empty((0, *shape), np.uint8), "labels": none, "positions": none}

    def take(self, positions: Indices) -> tuple[Tensor, Tensor]:
        """Pictures and labels at the next positions of the stream."""
        parts, count = [self._cut(len(positions))], len(positions)
        while (missing := count - sum(len(part["labels"]) for part in parts)) > 0:
            self._block = self._following()
            parts.append(self._cut(missing))
        images, labels, found = (np.concatenate([part[name] for part in parts]) for name in self._block)
        assert np.array_equal(found, positions), "Ray Data gave other rows, or another order, than was asked for"
        return torch.from_numpy(images), torch.from_numpy(labels)

    def close(self) -> None:
        """End the execution, and its actors."""
        if isinstance(self._blocks, Generator):
            self._blocks.close()

    def _cut(self, count: int) -> dict[str, Any]:
        part = {name: column[:count] for name, column in self._block.items()}
        self._block = {name: column[count:] for name, column in self._block.items()}
        return part

    def _following(self) -> dict[str, Any]:
        try:
            return next(self._blocks)
        except Exception as error:
            ours = our_cause(error)
            if ours is None:
                raise
            ours.args = (str(ours).splitlines()[0],)  # Ray Data adds advice of its own
            raise ours from error
