"""A contact sheet shows every pixel of small pictures, in the row of their class, and is drawn from few shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from imageset_samples import make_images, make_info, write_random_set
from PIL import Image

from sio_ray.cli import main
from sio_ray.imageset import ImageSet, sample, write_image_set
from sio_ray.imageset.contact_sheet import contact_sheet
from sio_ray.imageset.sample import first_rows, sample_pictures


def test_small_pictures_are_enlarged_by_a_whole_factor_without_smoothing() -> None:
    pictures = make_images(6, make_info((3, 8, 8)))
    sheet = np.asarray(contact_sheet([("", pictures[:3]), ("", pictures[3:])]))
    assert sheet.shape == (20 + 64 + 4 + 64 + 20, 20 + 3 * 64 + 2 * 4 + 20, 3)
    for i, picture in enumerate(pictures):
        top, left = 20 + i // 3 * 68, 20 + i % 3 * 68
        cell = sheet[top : top + 64, left : left + 64]
        assert np.array_equal(cell, picture.transpose(1, 2, 0).repeat(8, axis=0).repeat(8, axis=1))
    assert (sheet[:20] == 255).all()
    assert (sheet[:, -20:] == 255).all()


@pytest.mark.parametrize(
    ("shape", "cell"),
    [((1, 28, 28), (84, 84)), ((3, 64, 64), (64, 64)), ((3, 100, 50), (100, 50)), ((3, 512, 256), (160, 80))],
)
def test_pictures_of_any_size_become_easy_to_look_at(shape: tuple[int, int, int], cell: tuple[int, int]) -> None:
    sheet = contact_sheet([("", make_images(1, make_info(shape)))])
    assert (sheet.height - 40, sheet.width - 40) == cell


def test_names_stand_at_the_left_and_rows_may_be_short_or_empty() -> None:
    pictures = make_images(3, make_info((1, 64, 64)))
    bare = contact_sheet([("", pictures)])
    sheet = contact_sheet([("cat", pictures), ("a very long name of a class that no row can hold", pictures[:0])])
    left = sheet.width - bare.width
    assert 100 < left < 300
    pixels = np.asarray(sheet)
    assert np.array_equal(pixels[20:84, 20 + left :], np.asarray(bare)[20:84, 20:])
    assert (pixels[88:, left + 10 :] == 255).all()
    for top in (20, 88):
        assert (pixels[top : top + 64, :left] < 100).any(), "no name is drawn"


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Every shard that is opened, and every row group whose pictures are read."""
    seen: list[tuple[str, Any]] = []
    open_shard = sample.open_shard

    @contextmanager
    def opened(folder: Any, name: str) -> Iterator[pq.ParquetFile]:
        with open_shard(folder, name) as parquet:
            seen.append((name, None))
            read = parquet.read_row_group
            parquet.read_row_group = lambda group, *columns: seen.append((name, int(group))) or read(group, *columns)
            yield parquet

    monkeypatch.setattr(sample, "open_shard", opened)
    return seen


def write_large_set(folder: Path, *, is_sorted: bool) -> ImageSet:
    """2,400 pictures of 40 classes in 40 shards, each of which says its label."""
    info = make_info((1, 2, 2)).model_copy(update={"class_names": tuple(f"class {c}" for c in range(40))})
    labels = np.arange(2400) // 60 if is_sorted else np.arange(2400) % 40
    images = np.broadcast_to(labels[:, None, None, None].astype(np.uint8), (2400, 1, 2, 2))
    write_image_set(folder, info, images, labels, images_per_shard=60)
    return ImageSet(folder)


@pytest.mark.parametrize(("is_sorted", "most"), [(True, 4), (False, 6)])
def test_only_the_shards_that_hold_the_classes_are_opened(
    is_sorted: bool, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_set = write_large_set(tmp_path / "set", is_sorted=is_sorted)
    seen = count_reads(monkeypatch)
    sampled = sample_pictures(image_set, {3: 5, 17: 5, 39: 5}, seed=1)
    assert {label: np.unique(pictures).tolist() for label, pictures in sampled.items()} == {3: [3], 17: [17], 39: [39]}
    assert [len(pictures) for pictures in sampled.values()] == [5, 5, 5]
    assert sum(group is None for _, group in seen) <= most


def test_the_same_seed_gives_the_same_pictures_and_none_twice(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 300, 64)
    wanted = {0: 20, 2: 1000}
    first, again, other = (sample_pictures(image_set, wanted, seed) for seed in (5, 5, 6))
    whole = image_set.read()
    for label, count in ((0, 20), (2, 100)):
        assert np.array_equal(first[label], again[label])
        assert not np.array_equal(first[label], other[label])
        assert len(np.unique(first[label], axis=0)) == len(first[label]) == count
        of_class = {picture.tobytes() for picture in whole.images[whole.labels == label]}
        assert {picture.tobytes() for picture in first[label]} <= of_class


def test_the_first_rows_are_read_from_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_set = write_random_set(tmp_path / "set", 600, 300, shape=(1, 3, 4))
    seen = count_reads(monkeypatch)
    rows = first_rows(image_set, 2)
    assert seen == [("part-00000-of-00002.parquet", None), ("part-00000-of-00002.parquet", 0)]
    size = rows[0].pop("bytes")
    assert 60 < size < 120
    assert rows[0] == {
        "image_id": 0,
        "label": 0,
        "class": "a",
        "format": "PNG",
        "width_px": 4,
        "height_px": 3,
        "path": "000000000.png",
    }
    assert [row["image_id"] for row in first_rows(image_set, 301)] == list(range(301))
    assert len(first_rows(image_set, 1000)) == 600


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["images", "show", *arguments])
    return int(stop.value.code or 0), capsys.readouterr().err.strip()


def test_show_draws_the_classes_that_were_chosen_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large, ood = str(tmp_path / "large"), str(tmp_path / "ood")
    write_large_set(tmp_path / "large", is_sorted=True)
    write_random_set(ood, 50, 16, num_classes=0)
    sheet = tmp_path / "new" / "sheet.png"
    said = f"wrote {sheet}: "
    assert show(capsys, large, "--per-class", "3", "--output", str(sheet)) == (
        0,
        said + "72 pictures of 2x2 px, grey; 16 more classes, choose by --classes",
    )
    with Image.open(sheet) as picture:
        assert picture.height == 40 + 24 * 68 - 4
    assert show(capsys, large, "--classes", "class 39, class 2", "--output", str(sheet)) == (
        0,
        said + "20 pictures of 2x2 px, grey",
    )
    assert show(capsys, large, "--classes", "class 2,class 40") == (
        2,
        "error: --classes must be among the classes of the set (class 0, class 1, class 2, class 3, class 4, class 5, "
        "class 6, class 7, class 8, class 9, ...), got 'class 40'; name some of them.",
    )
    assert show(capsys, ood, "--output", str(sheet)) == (0, said + "50 pictures of 7x5 px, RGB")
    code, err = show(capsys, ood, "--classes", "a")
    assert (code, err) == (
        2,
        "error: --classes must be left out for a set without classes, got 'a'; leave it out.",
    )
