"""What is written comes back bit for bit, in the order of its ids, as the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from urllib.parse import quote

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from imageset_samples import file_bytes, make_images, make_info, make_labels, write_random_set
from PIL import Image
from pyarrow import fs

from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSet, write_image_set
from sio_ray.imageset.schema import ROWS_PER_GROUP
from sio_ray.imageset.storage import Folder

SHAPES = [(1, 1, 1), (1, 8, 8), (3, 1, 9), (3, 5, 7), (1, 13, 2), (3, 33, 31)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("count", "images_per_shard"), [(3, 1), (10, 4), (12, 4), (7, 100)])
def test_pictures_labels_and_ids_come_back_bit_for_bit(
    shape: tuple[int, int, int], count: int, images_per_shard: int, tmp_path: Path
) -> None:
    info = make_info(shape, source="dice", nested={"seed": 3})
    images, labels = make_images(count, info), make_labels(count, info)
    written = write_image_set(tmp_path / "set", info, images, labels, images_per_shard=images_per_shard)
    image_set = ImageSet(tmp_path / "set")
    arrays = image_set.read()
    assert arrays.images.dtype == np.uint8
    assert np.array_equal(arrays.images, images)
    assert np.array_equal(arrays.labels, labels)
    assert np.array_equal(arrays.image_ids, np.arange(count))
    assert image_set.manifest == written
    assert image_set.info == info
    assert len(image_set) == len(arrays) == count


@pytest.mark.parametrize(("count", "images_per_shard"), [(10, 4), (12, 4), (3, 4), (5, 1)])
def test_shards_hold_consecutive_ids_and_only_the_last_is_short(
    count: int, images_per_shard: int, tmp_path: Path
) -> None:
    image_set = write_random_set(tmp_path / "set", count, images_per_shard)
    sizes = [len(shard) for shard in image_set.shards()]
    assert sum(sizes) == count
    assert all(size == images_per_shard for size in sizes[:-1])
    assert 0 < sizes[-1] <= images_per_shard
    assert np.array_equal(np.concatenate([shard.image_ids for shard in image_set.shards()]), np.arange(count))
    names = [f"part-{shard_id:05d}-of-{len(sizes):05d}.parquet" for shard_id in range(len(sizes))]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["manifest.json", *names]


def test_the_manifest_describes_the_files_and_the_classes(tmp_path: Path) -> None:
    manifest = write_random_set(tmp_path / "set", 10, 4).manifest
    files = file_bytes(tmp_path / "set")
    for shard in manifest.shards:
        assert shard.num_bytes == len(files[shard.name])
        assert shard.sha256 == hashlib.sha256(files[shard.name]).hexdigest()
    assert manifest.num_bytes == sum(len(data) for name, data in files.items() if name.endswith(".parquet"))
    assert manifest.class_counts == (4, 3, 3)
    assert manifest.num_images == sum(shard.num_images for shard in manifest.shards) == 10


def test_the_same_pictures_give_the_same_bytes_wherever_they_are_written(tmp_path: Path) -> None:
    first, second = write_random_set(tmp_path / "a"), write_random_set(tmp_path / "b")
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    assert first.manifest.content_id == second.manifest.content_id


def test_one_pixel_one_label_or_the_order_changes_the_content_id(tmp_path: Path) -> None:
    info = make_info()
    images, labels = make_images(6, info), make_labels(6, info)
    one_pixel, one_label = images.copy(), labels.copy()
    one_pixel[5, 2, 4, 6] ^= 1
    one_label[5] = 0
    order = [1, 0, 2, 3, 4, 5]
    variants = [(images, labels), (one_pixel, labels), (images, one_label), (images[order], labels[order])]
    ids = {
        write_image_set(tmp_path / str(number), info, *variant).content_id for number, variant in enumerate(variants)
    }
    assert len(ids) == len(variants)


def test_an_ood_set_has_no_classes_and_all_its_labels_are_minus_one(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "ood", num_classes=0)
    assert set(image_set.read().labels.tolist()) == {-1}
    assert image_set.manifest.class_counts == ()


def test_labels_of_another_integer_type_are_stored_as_int64(tmp_path: Path) -> None:
    info = make_info()
    images, labels = make_images(6, info), make_labels(6, info)
    narrow = write_image_set(tmp_path / "narrow", info, images, labels.astype(np.int8))
    assert narrow.content_id == write_image_set(tmp_path / "wide", info, images, labels).content_id


def test_every_row_is_a_png_with_its_path_and_row_groups_stay_small(tmp_path: Path) -> None:
    info = make_info((1, 3, 2))
    count = ROWS_PER_GROUP + 1
    images = make_images(count, info)
    paths = [f"from/{row}" for row in range(count)]
    write_image_set(tmp_path / "set", info, images, make_labels(count, info), paths=paths)
    file = pq.ParquetFile(tmp_path / "set" / "part-00000-of-00001.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [ROWS_PER_GROUP, 1]
    rows = file.read().column("image").to_pylist()
    assert [row["path"] for row in rows] == paths
    with Image.open(io.BytesIO(rows[-1]["bytes"])) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(picture), images[-1, 0])


def test_the_constants_of_a_set_travel_in_every_shard(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set")
    for shard in image_set.manifest.shards:
        metadata = pq.read_schema(tmp_path / "set" / shard.name).metadata
        assert json.loads(metadata[b"sio_ray"]) == image_set.info.model_dump(mode="json")


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 9, 10, 11, 1000])
def test_a_limit_gives_the_lowest_ids(limit: int, tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4)
    some, whole = image_set.read(limit), image_set.read()
    assert np.array_equal(some.image_ids, np.arange(min(limit, 10)))
    assert np.array_equal(some.images, whole.images[:limit])
    assert np.array_equal(some.labels, whole.labels[:limit])


def test_a_limit_reads_no_shard_that_it_does_not_need(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4)
    (tmp_path / "set" / image_set.manifest.shards[1].name).unlink()
    assert len(image_set.read(limit=4)) == 4
    with pytest.raises(ImageSetError, match=r"set/part-00001-of-00003\.parquet is missing; run the stage"):
        image_set.read(limit=5)


def test_a_limit_of_zero_gives_arrays_of_no_images(tmp_path: Path) -> None:
    nothing = write_random_set(tmp_path / "set").read(limit=0)
    assert (nothing.images.shape, nothing.images.dtype) == ((0, 3, 5, 7), np.uint8)
    assert (len(nothing), nothing.labels.dtype, nothing.image_ids.shape) == (0, np.int64, (0,))


@pytest.mark.parametrize("name", ["with space", "100%", "a%20b", "a#b", "a?b", "ü", "-x"])
def test_a_path_and_its_file_uri_are_the_same_set(name: str, tmp_path: Path) -> None:
    by_path = write_random_set(tmp_path / name)
    by_uri = ImageSet(f"file://{quote(str(tmp_path / name))}")
    assert (tmp_path / name / "manifest.json").is_file()
    assert by_uri.manifest == by_path.manifest
    assert np.array_equal(by_uri.read().images, by_path.read().images)


def test_a_relative_path_is_found_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random_set(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert len(ImageSet("set")) == 10


def test_a_set_in_an_object_store_holds_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    memory.store = {}
    memory.pseudo_dirs = [""]
    resolve_local = Folder._resolve

    def resolve(folder: Folder, name: str = "") -> tuple[fs.FileSystem, str]:
        # pyarrow opens no store that outlives one call without a server, so `store://` is fsspec's memory here.
        if not folder.uri.startswith("store://"):
            return resolve_local(folder, name)
        return fs.PyFileSystem(fs.FSSpecHandler(memory)), f"{folder.uri.removeprefix('store:/')}/{name}".rstrip("/")

    monkeypatch.setattr(Folder, "_resolve", resolve)
    with pytest.raises(ImageSetError, match="image set store://bucket/set does not exist or is empty; check the path"):
        ImageSet("store://bucket/set")
    stored = write_random_set("store://bucket/set")
    local = write_random_set(tmp_path / "set")
    assert np.array_equal(stored.read().images, local.read().images)
    assert stored.folder.list() == local.folder.list()
    names = stored.folder.list()
    assert {name: stored.folder.read_bytes(name) for name in names} == file_bytes(tmp_path / "set")
    with pytest.raises(ImageSetError, match="image set store://bucket/set exists already; give another folder"):
        write_random_set("store://bucket/set")
    shard = stored.manifest.shards[2].name
    memory.rm(f"/bucket/set/{shard}")
    with pytest.raises(ImageSetError, match=f"store://bucket/set/{shard} is missing; run the stage"):
        stored.read()
    memory.rm("/bucket/set/manifest.json")
    with pytest.raises(ImageSetError, match=r"image set store://bucket/set is unfinished \(it has no manifest\.json\)"):
        ImageSet("store://bucket/set")


@pytest.mark.parametrize("num_classes", [3, 0])
def test_hugging_face_datasets_shows_pictures_and_class_names(
    num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    arrays = write_random_set(tmp_path / "set", 10, 4, num_classes=num_classes).read()
    files = str(tmp_path / "set" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    if num_classes:
        assert loaded.features["label"].names == ["a", "b", "c"]
    for row, example in enumerate(loaded):
        assert isinstance(example["image"], Image.Image)
        assert np.array_equal(np.asarray(example["image"]), arrays.images[row].transpose(1, 2, 0))
        assert (example["label"], example["image_id"]) == (arrays.labels[row], row)
