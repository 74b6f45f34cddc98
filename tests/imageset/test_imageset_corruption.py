"""Whatever happens to a shard, the reader gives the right pictures or names the shard; it never crashes or guesses."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imageset_samples import adopt_bytes, hollow_png, make_images, make_info, make_labels, write_random_set

from sio_ray.errors import ImageSetError
from sio_ray.imageset.pictures import UInt8Array, decode_picture, encode_png
from sio_ray.imageset.schema import arrow_schema
from sio_ray.imageset.shard import decode_shard, encode_shard

SECOND = "part-00001-of-00003.parquet"


def flip_one_bit(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flip_one_bit, lambda data: data[:-1], lambda data: b"", lambda data: data + b"\0", lambda data: b"GIF89a"],
    ids=["bit", "truncated", "empty", "longer", "no parquet"],
)
def test_a_shard_of_other_bytes_than_the_manifest_names_is_refused(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4)
    path = tmp_path / "set" / SECOND
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageSetError) as caught:
        image_set.read()
    assert str(caught.value) == (
        f"{path} is corrupt (its SHA-256 is not the manifest's); "
        "delete the shard and manifest.json, and run the stage that wrote the set again."
    )
    assert len(image_set.read(limit=4)) == 4


def test_two_shards_that_changed_places_are_refused(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 8, 4)
    first, second = (tmp_path / "set" / shard.name for shard in image_set.manifest.shards)
    swapped = second.read_bytes()
    second.write_bytes(first.read_bytes())
    first.write_bytes(swapped)
    with pytest.raises(ImageSetError, match=r"part-00000-of-00002\.parquet is corrupt"):
        image_set.read()


def test_a_folder_in_place_of_a_shard_is_named(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4)
    (tmp_path / "set" / SECOND).unlink()
    (tmp_path / "set" / SECOND).mkdir()
    with pytest.raises(ImageSetError, match=rf"set/{SECOND} cannot be read \(.+\); check the disk"):
        image_set.read()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


PNG = encode_png(make_images(1, make_info())[0])
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURES = pa.array([{"bytes": PNG, "path": "x"}] * 4, STRUCT)
IDS = np.arange(4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no parquet at all", "Parquet magic bytes not found"),
        (b"PAR1", "Parquet file size is 4 bytes"),
        (parquet(image=PICTURES, label=IDS), "image_id"),
        (parquet(other=IDS), "image"),
        (
            parquet(image=[PNG] * 4, label=IDS, image_id=IDS),
            "column image must be struct<.*> without nulls, got binary",
        ),
        (
            parquet(image=PICTURES, label=["a"] * 4, image_id=IDS),
            "column label must be int64 without nulls, got string",
        ),
        (parquet(image=PICTURES, label=IDS / 2, image_id=IDS), "column label must be int64 without nulls, got double"),
        (
            parquet(image=PICTURES, label=pa.array([0, None, 1, 2]), image_id=IDS),
            "column label must be int64 without nulls, got int64",
        ),
        (
            parquet(image=pa.array([None] * 4, STRUCT), label=IDS, image_id=IDS),
            "column image must be struct<.*> without nulls, got struct<.*>",
        ),
    ],
)
def test_a_file_that_is_no_shard_is_named_with_the_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    image_set = adopt_bytes(tmp_path / "set", data, shard_id=1)
    with pytest.raises(ImageSetError, match=rf"set/{SECOND} is corrupt \(.*{reason}.*\); delete it and run the stage"):
        image_set.read()


def test_a_shard_of_too_few_rows_is_named(tmp_path: Path) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    info = make_info()
    data = encode_shard(info, make_images(3, info), make_labels(3, info), np.arange(4, 7))
    image_set = adopt_bytes(tmp_path / "set", data, shard_id=1)
    with pytest.raises(ImageSetError, match=rf"set/{SECOND} has 3 rows, its manifest says 4; write the set again"):
        image_set.read()


@pytest.mark.parametrize(
    ("num_classes", "label", "allowed"),
    [(3, 3, r"\[0, 3\)"), (3, -1, r"\[0, 3\)"), (0, 0, r"-1 \(an OOD set\)"), (0, -2, r"-1 \(an OOD set\)")],
)
def test_a_label_out_of_range_is_named_with_its_image(
    num_classes: int, label: int, allowed: str, tmp_path: Path
) -> None:
    write_random_set(tmp_path / "set", 10, 4, num_classes=num_classes)
    info = make_info(num_classes=num_classes)
    labels = make_labels(4, info)
    labels[2] = label
    image_set = adopt_bytes(tmp_path / "set", encode_shard(info, make_images(4, info), labels, np.arange(4, 8)), 1)
    with pytest.raises(ImageSetError, match=rf"{SECOND} has label {label} at image_id 6, its set allows {allowed};"):
        image_set.read()


def with_picture(data: bytes | None) -> bytes:
    """A shard whose row 2, image_id 6, holds other bytes."""
    info = make_info()
    rows = [{"bytes": encode_png(image), "path": None} for image in make_images(4, info)]
    rows[2]["bytes"] = data
    columns = {"image": pa.array(rows, STRUCT), "label": make_labels(4, info), "image_id": np.arange(4, 8)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=arrow_schema(info)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_png(make_images(1, make_info((3, 7, 5)))[0]), "is 5x7 px, its set says 7x5; all pictures of a set"),
        (encode_png(make_images(1, make_info((3, 5, 8)))[0]), "is 8x5 px, its set says 7x5;"),
        # Were a pixel decoded before the size is looked at, the reason would be that there is none.
        (hollow_png(9000, 9000), "is 9000x9000 px, its set says 7x5;"),
        (hollow_png(60_000, 60_000), r"cannot be decoded \(Image size \(3600000000 pixels\) exceeds limit"),
        (hollow_png(7, 5), r"cannot be decoded \(.+\); write its set again"),
        (PNG[:-30], r"cannot be decoded \(.*truncated"),
        (b"", r"cannot be decoded \(no known picture format\); write its set again"),
        (None, r"cannot be decoded \(no known picture format\)"),
        (b"<svg/>", r"cannot be decoded \(no known picture format\)"),
    ],
)
def test_a_picture_that_does_not_fit_is_named_by_its_id_and_shard(
    data: bytes | None, reason: str, tmp_path: Path
) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    image_set = adopt_bytes(tmp_path / "set", with_picture(data), 1)
    with pytest.raises(ImageSetError, match=rf"^image_id 6 of .*/set/{SECOND} {reason}"):
        image_set.read()


def is_refused(decode: Callable[[], UInt8Array], shape: tuple[int, ...]) -> bool:
    """Whether it raises an error of ours; if not, what it gives must have the right shape."""
    try:
        pixels = decode()
    except ImageSetError:
        return True
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)
    return False


def test_any_damage_to_a_shard_ends_in_an_error_of_ours_or_in_pictures_of_the_right_shape() -> None:
    # Without the manifest's hash, as where a shard of an interrupted run is adopted.
    info = make_info((1, 3, 2), num_classes=2)
    data = encode_shard(info, make_images(2, info), make_labels(2, info), np.arange(2))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        is_refused(lambda damaged=damaged: decode_shard(bytes(damaged), info, "shard")[0], (2, *info.image_shape))
        assert is_refused(lambda position=position: decode_shard(data[:position], info, "shard")[0], ())


def test_any_damage_to_a_picture_ends_in_an_error_of_ours_or_in_pixels_of_the_right_shape() -> None:
    shape = (3, 5, 7)
    for position in range(len(PNG)):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            damaged = bytearray(PNG)
            damaged[position] ^= mask
            is_refused(lambda damaged=damaged: decode_picture(bytes(damaged), shape, "picture"), shape)
