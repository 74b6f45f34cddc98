"""A set written as a stream is the set written from memory, holds one shard at a time, and leaves nothing stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imageset_samples import file_bytes, make_images, make_info, make_labels, write_random_set

from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet
from sio_ray.imageset.verify import verify_image_set
from sio_ray.imageset.writer import Batch, stream_image_set

INFO = make_info()


@pytest.mark.parametrize(("count", "images_per_shard"), [(10, 4), (600, 600), (600, 257), (3, 1)])
def test_a_stream_writes_the_same_bytes_as_an_array_and_reads_each_row_once_in_order(
    count: int, images_per_shard: int, tmp_path: Path
) -> None:
    whole = write_random_set(tmp_path / "whole", count, images_per_shard)
    images, labels = make_images(count, INFO), make_labels(count, INFO)
    asked: list[int] = []

    def read(start: int, stop: int) -> Batch:
        assert stop - start <= 256
        asked.extend(range(start, stop))
        return Batch(images[start:stop], labels[start:stop])

    manifest = stream_image_set(tmp_path / "stream", INFO, count, read, images_per_shard=images_per_shard)
    assert asked == list(range(count))
    assert manifest == whole.manifest
    assert file_bytes(tmp_path / "stream") == file_bytes(tmp_path / "whole")


def test_shards_of_an_interrupted_writer_do_not_survive_beside_the_new_ones(tmp_path: Path) -> None:
    images, labels = make_images(10, INFO), make_labels(10, INFO)

    def fail_late(start: int, stop: int) -> Batch:
        if start >= 8:
            raise KeyboardInterrupt
        return Batch(images[start:stop], labels[start:stop])

    with pytest.raises(KeyboardInterrupt):
        stream_image_set(tmp_path / "set", INFO, 10, fail_late, images_per_shard=1)
    assert len(list((tmp_path / "set").iterdir())) == 8
    (tmp_path / "set" / "notes.txt").write_text("not a shard")
    write_random_set(tmp_path / "set", 10, 4)
    assert set(file_bytes(tmp_path / "set")) == {
        "manifest.json",
        "notes.txt",
        *(f"part-{k:05d}-of-00003.parquet" for k in range(3)),
    }
    assert verify_image_set(str(tmp_path / "set")).ok


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (Batch(make_images(1, make_info((3, 5, 8))), np.array([0])), r"got uint8 of shape \(1, 3, 5, 8\)"),
        (Batch(make_images(1, INFO), np.array([3])), r"labels must be in \[0, 3\), got 3\.\.3"),
        (Batch(make_images(1, INFO), np.array([0, 1])), "1 images but 2 labels"),
        (Batch(make_images(1, INFO), np.array([0]), ["a", "b"]), "1 images but 2 paths"),
        (Batch(make_images(1, INFO), np.array([0])), "has no image of class c; add some, or drop the class"),
    ],
)
def test_a_row_that_does_not_fit_leaves_no_finished_set(late: Batch, message: str, tmp_path: Path) -> None:
    def read(start: int, stop: int) -> Batch:
        return late if start == 2 else Batch(make_images(1, INFO), np.array([start]))

    with pytest.raises(ImageSetError, match=f"image set .*/set:? .*{message}"):
        stream_image_set(tmp_path / "set", INFO, 3, read, images_per_shard=1)
    with pytest.raises(ImageSetError, match="is unfinished"):
        ImageSet(tmp_path / "set")


def test_a_stream_of_no_images_or_onto_a_finished_set_is_refused_before_it_is_read(tmp_path: Path) -> None:
    def read(start: int, stop: int) -> Batch:
        raise AssertionError("read")

    with pytest.raises(ImageSetError, match="would hold no image"):
        stream_image_set(tmp_path / "set", INFO, 0, read)
    with pytest.raises(ImageSetError, match="images_per_shard must be at least 1, got 0"):
        stream_image_set(tmp_path / "set", INFO, 1, read, images_per_shard=0)
    write_random_set(tmp_path / "set")
    with pytest.raises(ImageSetError, match="exists already"):
        stream_image_set(tmp_path / "set", INFO, 1, read)


def test_duckdb_reads_labels_and_pictures(tmp_path: Path) -> None:
    import duckdb

    image_set = write_random_set(tmp_path / "set", 10, 4)
    files = f"read_parquet('{tmp_path}/set/*.parquet')"
    counts = duckdb.sql(f"select label, count(*) from {files} group by label order by label").fetchall()
    assert tuple(count for _, count in counts) == image_set.manifest.class_counts
    signatures = duckdb.sql(f"select distinct image.bytes[1:8] from {files}").fetchall()
    assert signatures == [(b"\x89PNG\r\n\x1a\n",)]
