"""The streaming feed: the laws of the memory feed, the same pixels, and Ray Data's actors gone when it is closed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import MemoryFeed, Sources
from sio_ray.classifier.feed.plan import Group, Source
from sio_ray.errors import BatchError, ConfigError, ImageSetError
from sio_ray.imageset import ImageSet, ImageSetInfo, Manifest, ShardEntry, write_image_set
from sio_ray.imageset.shard import pack_shard
from sio_ray.imageset.storage import Folder
from sio_ray.training import streaming
from sio_ray.training.stream_stages import Decoder, read_windows
from sio_ray.training.streaming import StreamedSet, StreamingFeed

CROP_AND_FLIP = Augmentation(crop_padding_px=2, horizontal_flip=True)
RESIZED = Augmentation(horizontal_flip=True, resized_crop=True, size_px=4)

#: num_real, num_synthetic, global_batch_size, real_batch_share: dividing or not, a short pool, one source alone.
CASES = [(600, 600, 60, 0.8), (370, 23, 100, 0.7), (310, 0, 80, 1.0), (50, 290, 60, 0.25), (7, 4, 16, 0.8)]

SIZES: dict[Source, int] = {"real": 600, "synthetic": 600, "outliers": 70, "mixing": 90}


@pytest.fixture(scope="module")
def uris(tmp_path_factory) -> dict[Source, str]:
    """Sets of several shards and row groups, which differ in every picture."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, (name, size) in enumerate(SIZES.items()):
        is_id = name in ("real", "synthetic")
        info = ImageSetInfo(class_names=("a", "b", "c") if is_id else (), height_px=8, width_px=6, channels=3)
        images = np.random.default_rng(seed).integers(0, 256, (size, 3, 8, 6), dtype=np.uint8)
        labels = np.arange(size) % 3 if is_id else np.full(size, -1)
        write_image_set(folder / name, info, images, labels, images_per_shard=290)
    return {name: str(folder / name) for name in SIZES}


@pytest.fixture(scope="module")
def stored(uris) -> dict[Source, Tensor]:
    """All pictures, (N, C, H, W) uint8."""
    return {name: torch.from_numpy(ImageSet(uri).read().images) for name, uri in uris.items()}


@pytest.fixture
def in_process(monkeypatch):
    """Both stages in turn in this process, in small blocks: the laws are theirs, and Ray Data is slow to start."""

    def run(stream, windows, num_decoders):
        decoder = Decoder(stream)
        for table in read_windows(stream, windows):
            for start in range(0, len(table), 37):
                yield decoder(table.slice(start, 37))

    monkeypatch.setattr(streaming, "_run", run)


def sources_of(case, uris) -> Sources[StreamedSet]:
    limits = {"real": case[0], "synthetic": case[1], "outliers": None, "mixing": None}
    return Sources(**{name: StreamedSet(uri, limits[name]) for name, uri in uris.items() if limits[name] != 0})


def streaming_feed(case, uris, augmentation=CROP_AND_FLIP, **changes) -> StreamingFeed:
    settings = {
        "window": 256,
        "num_steps": 60,
        "global_batch_size": case[2],
        "real_batch_share": case[3],
        "num_outliers": 17,
        "augmentation": augmentation,
        "seed": 3,
    }
    return StreamingFeed(sources_of(case, uris), **{**settings, **changes})


def expected_batch(feed: StreamingFeed, stored, step: int, augmentation=CROP_AND_FLIP) -> dict[Group, Tensor]:
    """A global batch from the plan's rows and the stored pictures."""
    plan = feed.plan
    pictures = {}
    for group, members in plan.members.items():
        raw = torch.cat([stored[source][plan.global_rows(source, step)] for source in members])
        draws = augmentation.draw((3, 8, 6), len(raw), 3, step, group)
        pictures[group] = augmentation.apply(raw, draws).float() / 255
    return pictures


def put_together(parts: list[MixedBatch]) -> dict[Group, Tensor]:
    order = torch.cat([part.positions for part in parts]).argsort()
    groups = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("images", "outliers", "mixing")}
    return {name: of_group if name == "outliers" else of_group[order] for name, of_group in groups.items()}


@pytest.mark.parametrize("augmentation", [CROP_AND_FLIP, RESIZED])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_workers_parts_make_up_the_batches_of_the_plan_with_the_pixels_of_the_memory_feed(
    case, world_size, augmentation, uris, stored, in_process
):
    workers = [streaming_feed(case, uris, augmentation, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 2, 3, 40, 41, 17):
        parts = [worker.batch(step) for worker in workers]
        together = put_together(parts)
        for group, pictures in expected_batch(workers[0], stored, step, augmentation).items():
            assert torch.equal(together[group], pictures)
        for part, worker in zip(parts, workers, strict=True):
            rows = np.concatenate([worker.plan.rows(source, step) for source in worker.plan.members["images"]])
            assert part.labels.tolist() == (rows % 3).tolist()
            assert part.is_synthetic.sum() == len(worker.plan.rows("synthetic", step))
    for worker in workers:
        assert worker.wait_s > 0
        worker.close()


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_every_real_image_is_read_once_per_epoch_over_all_workers(case, world_size, uris, stored, in_process):
    plain = Augmentation()
    workers = [
        streaming_feed(case, uris, plain, num_outliers=0, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    known = {picture.numpy().tobytes(): row for row, picture in enumerate(stored["real"][: case[0]])}
    num_steps = -(-2 * case[0] // workers[0].composition.num_real)
    stream = []
    for step in range(min(num_steps, 60)):
        for worker in workers:
            batch = worker.batch(step)
            real = (batch.images[~batch.is_synthetic] * 255).round().byte()
            stream += [known[picture.numpy().tobytes()] for picture in real]
    for start in range(0, len(stream) - case[0] + 1, case[0]):
        assert sorted(stream[start : start + case[0]]) == list(range(case[0]))
    assert len(stream) >= case[0]


def test_a_growing_pool_is_streamed_as_it_is_planned(uris, stored, in_process):
    feed = streaming_feed(CASES[0], uris, pool_size=lambda step: 20 + 9 * step)
    for step in (0, 1, 2, 30, 31):
        assert torch.equal(feed.batch(step).images, expected_batch(feed, stored, step)["images"])


def test_a_pass_in_one_window_equals_the_memory_feeds_images_at_the_same_rows(uris, stored, in_process):
    feed = streaming_feed(CASES[0], uris)
    arrays = {name: ImageSet(uri).read() for name, uri in uris.items()}
    memory = MemoryFeed(
        Sources(**arrays),
        global_batch_size=60,
        real_batch_share=0.8,
        num_outliers=17,
        augmentation=CROP_AND_FLIP,
        seed=3,
    )
    assert memory.composition == feed.composition
    memory.plan.passes = feed.plan.passes  # the order is all in which the engines differ
    for step in (0, 5):
        ours, theirs = feed.batch(step), memory.batch(step)
        for name in ("images", "labels", "is_synthetic", "positions", "outliers", "mixing"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def living_decoders() -> int:
    return sum(
        "Decoder" in actor["ActorClassName"] and actor["State"] != "DEAD"
        for actor in ray._private.state.actors().values()
    )


@pytest.mark.slow
def test_ray_data_streams_the_same_batches_in_order_and_leaves_no_actor(uris, stored):
    uris = {source: uris[source] for source in ("real", "synthetic")}
    feed = streaming_feed(CASES[0], uris, num_outliers=0, num_decoders=2, num_steps=20_000)
    for step in range(7, 27):
        batch = feed.batch(step)
        for group, pictures in expected_batch(feed, stored, step).items():
            assert torch.equal(getattr(batch, group), pictures)
    assert living_decoders() == 4
    feed.close()
    deadline_s = time.monotonic() + 20
    while living_decoders() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert living_decoders() == 0


def damaged(uri: str, folder, change) -> ImageSet:
    """A copy of a set with a change to the bytes of its second shard, which its manifest vouches for."""
    image_set = ImageSet(uri)
    manifest = image_set.manifest
    for shard in manifest.shards:
        Folder(str(folder)).write_bytes(shard.name, image_set.folder.read_bytes(shard.name))
    second = manifest.shards[1]
    data = change(image_set, second)
    shards = (manifest.shards[0], ShardEntry.of(second.name, second.num_images, data), *manifest.shards[2:])
    Folder(str(folder)).write_bytes(second.name, data)
    Manifest(**{**manifest.model_dump(), "shards": shards}).write(Folder(str(folder)))
    return ImageSet(folder)


def repacked(num_images: int, label: int, picture: bytes | None = None):
    """A shard with a label or a picture that is wrong at row 3."""

    def change(image_set: ImageSet, shard: ShardEntry) -> bytes:
        arrays = image_set.read_shard(shard).first(num_images)
        from sio_ray.imageset.pictures import encode_png

        pictures = [encode_png(image) for image in arrays.images]
        labels = arrays.labels.copy()
        labels[3] = label
        if picture is not None:
            pictures[3] = picture
        return pack_shard(image_set.info, pictures, labels, arrays.image_ids)

    return change


FAULTS = [
    (lambda image_set, shard: b"no Parquet", r"{shard} cannot be read \(.*\); find out more with"),
    (repacked(289, 0), r"{shard} has 289 rows, its manifest says 290; write the set again\."),
    (repacked(290, 0, b"no picture"), r"image_id 293 of {shard} cannot be decoded \(no known picture format\)"),
    (repacked(290, 7), r"image_id 293 of {shard} has label 7, which its set does not allow; write the set again\."),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_a_shard_that_is_damaged_is_named(change, message, uris, tmp_path, in_process):
    image_set = damaged(uris["real"], tmp_path / "damaged", change)
    where = image_set.folder.join(image_set.manifest.shards[1].name)
    feed = streaming_feed(CASES[2], {"real": image_set.uri}, num_outliers=0, window=1000)
    with pytest.raises(ImageSetError, match="^" + message.format(shard=where)):
        feed.batch(0)
    feed.close()


@pytest.mark.slow
def test_a_damaged_shard_is_named_through_ray_data_too(uris, tmp_path):
    for number, (change, message) in enumerate(FAULTS[1:3]):
        image_set = damaged(uris["real"], tmp_path / str(number), change)
        where = image_set.folder.join(image_set.manifest.shards[1].name)
        feed = streaming_feed(CASES[2], {"real": image_set.uri}, num_outliers=0, window=1000)
        with pytest.raises(ImageSetError, match="^" + message.format(shard=where)) as error:
            feed.batch(0)
        assert type(error.value) is ImageSetError
        assert "\n" not in str(error.value)
        feed.close()


def test_what_cannot_be_is_refused_before_anything_is_read(uris, tmp_path):
    with pytest.raises(ConfigError, match=r"^train\.input_px must be at most the side of the pictures \(6 px\), got 7"):
        streaming_feed(CASES[0], uris, Augmentation(size_px=7))
    with pytest.raises(BatchError, match=r"cannot feed 61 workers"):
        streaming_feed(CASES[0], uris, world_size=61)
    with pytest.raises(ImageSetError, match=r"does not exist or is empty"):
        streaming_feed(CASES[0], {**uris, "mixing": str(tmp_path / "none")})
    info = ImageSetInfo(height_px=4, width_px=6, channels=3)
    write_image_set(tmp_path / "small", info, np.zeros((2, 3, 4, 6), np.uint8), np.full(2, -1))
    with pytest.raises(BatchError) as error:
        streaming_feed(CASES[0], {**uris, "outliers": str(tmp_path / "small")})
    assert str(error.value) == (
        "real pictures are of shape (3, 8, 6), outlier ones of (3, 4, 6); bring them to one size."
    )


def test_a_reader_keeps_only_this_workers_rows_of_the_steps_that_are_wanted(uris, monkeypatch):
    asked = []
    monkeypatch.setattr(streaming, "_run", lambda *arguments: asked.append(arguments) or iter(()))
    feed = streaming_feed(CASES[0], {"real": uris["real"]}, num_outliers=0, rank=1, world_size=3, real_batch_share=1.0)
    with pytest.raises(StopIteration):
        feed.batch(11)
    ((stream, windows, num_decoders),) = asked
    tables = list(read_windows(stream, windows))
    positions = np.concatenate([table.column("position").to_numpy() for table in tables])
    assert positions.tolist() == [position for position in range(11 * 60, 60 * 60) if 20 <= position % 60 < 40]
    assert max(map(len, tables)) <= 256
    assert num_decoders == 1
