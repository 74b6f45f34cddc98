"""Shards of real sets: each picture exactly once, whatever was there before, is skipped, or has changed."""

import itertools
import warnings

import numpy as np
import pytest
from PIL import Image

from sio_ray.datasets import writing
from sio_ray.datasets.source import FileSet, SourceSet
from sio_ray.datasets.writing import commit, shard_tasks, write_shard
from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet, ImageSetInfo
from sio_ray.imageset.storage import Folder
from sio_ray.imageset.verify import verify_image_set

INFO = ImageSetInfo(class_names=("even", "odd"), height_px=8, width_px=8, channels=1)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(writing, "_MAX_IMAGES_PER_SHARD", 10)


@pytest.fixture
def files(tmp_path):
    """34 picture files; the brightness of each is its number."""
    root = tmp_path / "pictures"
    root.mkdir()
    paths = [f"{number:02d}.png" for number in range(34)]
    for number, path in enumerate(paths):
        Image.new("L", (9, 8), number).save(root / path)
    return FileSet(root, paths, np.arange(34) % 2, 8, 1)


def write(folder, pictures, *, skip=False, info=INFO):
    tasks = shard_tasks(Folder(str(folder)), info, pictures, skips_corrupt=skip)
    written = [write_shard(task, 2) for task in tasks]
    commit(tasks, written)
    return written


def spoil(files, *numbers):
    for number in numbers:
        (files.root / files.paths[number]).write_bytes(b"no picture")


def numbers_in(folder):
    """What the set holds, after a look at every byte of it."""
    assert verify_image_set(str(folder), num_workers=1).ok
    arrays = ImageSet(folder).read()
    np.testing.assert_array_equal(arrays.image_ids, np.arange(len(arrays)))
    np.testing.assert_array_equal(arrays.labels, arrays.images[:, 0, 0, 0] % 2)
    return arrays.images[:, 0, 0, 0].tolist()


def test_each_picture_is_in_the_set_once_and_in_order(files, tmp_path):
    written = write(tmp_path / "set", files)
    assert numbers_in(tmp_path / "set") == list(range(34))
    assert [shard.entry.num_images for shard in written] == [9, 9, 8, 8]  # of equal size, or one more
    assert ImageSet(tmp_path / "set").manifest.class_counts == (17, 17)


def test_pictures_in_memory_give_the_same_bytes_as_those_in_files(files, tmp_path):
    images = np.stack([files.read(row) for row in range(len(files))])
    write(tmp_path / "one", files)
    write(tmp_path / "two", SourceSet(images, files.labels, files.paths))
    assert ImageSet(tmp_path / "one").manifest == ImageSet(tmp_path / "two").manifest


@pytest.mark.parametrize(("size_px", "channels", "expected"), [(8, 1, 10), (256, 3, 10), (1024, 3, 5), (4096, 3, 1)])
def test_large_pictures_come_in_smaller_shards(tmp_path, size_px, channels, expected, monkeypatch):
    monkeypatch.setattr(writing, "_MAX_PIXEL_BYTES_PER_SHARD", 5 * 3 * 1024 * 1024)
    info = ImageSetInfo(height_px=size_px, width_px=size_px, channels=channels)
    many = FileSet.of_ood(tmp_path, ["a.png"] * 100, size_px, channels)
    tasks = shard_tasks(Folder(str(tmp_path)), info, many, skips_corrupt=False)
    assert max(len(task.part) for task in tasks) == expected
    assert sum(len(task.part) for task in tasks) == 100


def test_a_set_without_pictures_is_refused(tmp_path, files):
    with pytest.raises(ImageSetError, match=r"set would hold no picture; give at least one\.$"):
        write(tmp_path / "set", files.take(np.arange(0)))


def test_after_an_interruption_only_what_is_missing_is_written(files, tmp_path):
    tasks = shard_tasks(Folder(str(tmp_path / "set")), INFO, files, skips_corrupt=False)
    first = [write_shard(task) for task in tasks[:2]]
    (tmp_path / "set" / f"{tasks[3].name}.0123.partial").write_bytes(b"half")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    again = write(tmp_path / "set", files)
    assert [shard.is_new for shard in again] == [False, False, True, True]
    assert [shard.entry for shard in again[:2]] == [shard.entry for shard in first]
    for shard in first:
        assert (tmp_path / "set" / shard.entry.name).stat().st_mtime_ns == before[shard.entry.name]
    assert numbers_in(tmp_path / "set") == list(range(34))
    assert not list((tmp_path / "set").glob("*.partial"))


def relabel(pictures):
    labels = pictures.labels.copy()
    labels[0] = 1 - labels[0]
    return pictures.with_labels(labels)


@pytest.mark.parametrize(
    "change",
    [
        relabel,
        lambda pictures: pictures.take(np.arange(34)[::-1]),
        lambda pictures: pictures.take(np.array([1, 0, *range(2, 34)])),
        lambda pictures: pictures.take(np.arange(1, 34)),
    ],
    ids=["label", "order", "two swapped", "one fewer"],
)
def test_shards_that_hold_other_pictures_than_wanted_are_written_again(files, tmp_path, change):
    write(tmp_path / "set", files)
    changed = change(files)
    assert write(tmp_path / "set", changed)[0].is_new
    arrays = ImageSet(tmp_path / "set").read()
    assert arrays.labels.tolist() == changed.labels.tolist()
    assert [f"{number:02d}.png" for number in arrays.images[:, 0, 0, 0]] == changed.paths
    assert verify_image_set(str(tmp_path / "set"), num_workers=1).ok


@pytest.mark.parametrize("data", [b"", b"PAR1 no PAR1"])
def test_a_broken_shard_is_written_again(files, tmp_path, data):
    written = write(tmp_path / "set", files)
    (tmp_path / "set" / written[1].entry.name).write_bytes(data)
    assert [shard.is_new for shard in write(tmp_path / "set", files)] == [False, True, False, False]
    assert numbers_in(tmp_path / "set") == list(range(34))


def test_shards_with_other_constants_are_written_again(files, tmp_path):
    write(tmp_path / "set", files)
    other = INFO.model_copy(update={"provenance": {"seed": 1}})
    assert all(shard.is_new for shard in write(tmp_path / "set", files, info=other))


def test_shards_of_a_larger_set_are_cleared_away(files, tmp_path):
    write(tmp_path / "set", files)
    write(tmp_path / "set", files.take(np.arange(12)))
    assert sorted(path.name for path in (tmp_path / "set").glob("part-*")) == [
        "part-00000-of-00002.parquet",
        "part-00001-of-00002.parquet",
    ]
    assert numbers_in(tmp_path / "set") == list(range(12))


def test_a_corrupt_picture_stops_the_work_and_is_named(files, tmp_path):
    spoil(files, 12, 30)
    with pytest.raises(ImageSetError) as error:
        write(tmp_path / "set", files)
    message = str(error.value)
    assert message.startswith(f"picture {files.root}/12.png cannot be decoded (no known picture format")
    assert message.endswith("; replace or delete it, or leave out such pictures with prepare.on_corrupt=skip.")
    assert "\n" not in message
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_skipped_pictures_leave_no_gap_and_counts_are_right(files, tmp_path):
    spoil(files, 0, 12, 13, 30)
    written = write(tmp_path / "set", files, skip=True)
    assert list(itertools.chain(*(shard.skipped for shard in written))) == ["00.png", "12.png", "13.png", "30.png"]
    assert numbers_in(tmp_path / "set") == [number for number in range(34) if number not in (0, 12, 13, 30)]
    assert ImageSet(tmp_path / "set").manifest.class_counts == (14, 16)


def test_skipping_goes_on_after_an_interruption_at_any_place(files, tmp_path):
    spoil(files, 0, 12, 13, 30)
    folder = tmp_path / "set"
    write(folder, files, skip=True)
    wanted = ImageSet(folder).manifest
    again = write(folder, files, skip=True)
    assert not any(shard.is_new for shard in again)
    assert list(itertools.chain(*(shard.skipped for shard in again))) == ["00.png", "12.png", "13.png", "30.png"]
    for name in [shard.name for shard in wanted.shards]:  # each in turn is as it was before its ids were moved
        (folder / name).unlink()
        assert sum(shard.is_new for shard in write(folder, files, skip=True)) == 1
        assert ImageSet(folder).manifest == wanted
    assert len(numbers_in(folder)) == 30


def test_what_was_skipped_is_not_taken_for_whole_when_nothing_may_be_skipped(files, tmp_path):
    spoil(files, 12)
    write(tmp_path / "set", files, skip=True)
    with pytest.raises(ImageSetError, match=r"12\.png cannot be decoded"):
        write(tmp_path / "set", files)
    Image.new("L", (8, 8), 12).save(files.root / "12.png")  # mended
    assert [shard.is_new for shard in write(tmp_path / "set", files)] == [False, True, False, False]
    assert numbers_in(tmp_path / "set") == list(range(34))


def test_a_shard_of_which_nothing_is_left_is_an_error(files, tmp_path):
    spoil(files, *range(9))
    with pytest.raises(ImageSetError) as error:
        write(tmp_path / "set", files, skip=True)
    assert str(error.value) == (
        f"none of the 9 pictures of {tmp_path}/set/part-00000-of-00004.parquet decodes, such as 00.png; "
        "mend the source."
    )


def test_a_class_of_which_nothing_is_left_is_an_error(files, tmp_path):
    spoil(files, *range(1, 34, 2))
    with pytest.raises(ImageSetError, match=r"set has no image of class odd; add some, or drop the class\.$"):
        write(tmp_path / "set", files, skip=True)


def test_bombs_are_refused_in_all_threads(files, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # of 72; Pillow by itself only warns
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as outside of tests
        with pytest.raises(ImageSetError, match=r"00\.png cannot be decoded \(Image size \(72 pixels\) exceeds limit"):
            write(tmp_path / "set", files)
