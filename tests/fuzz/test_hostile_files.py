"""Files that are made to do harm: paths that lead elsewhere, bombs, programs in the place of pictures, pickles."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sio_ray.errors import ConfigError, ImageSetError, SioRayError
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.imageset import files as files_module
from sio_ray.imageset.exchange import import_images, openood
from sio_ray.imageset.exchange.place import stays_inside
from sio_ray.imageset.foreign_pictures import FORMATS, MAX_PIXELS, bombs_are_errors, decoding, open_picture
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.pictures import decode_picture, encode_png
from sio_ray.imageset.shard import encode_shard

INFO = ImageSetInfo(class_names=("a",), height_px=4, width_px=4, channels=1)
IMAGES, LABELS = np.zeros((3, 1, 4, 4), dtype=np.uint8), np.zeros(3, dtype=np.int64)


@pytest.mark.parametrize(
    "name", ["../secret.parquet", "/secret.parquet", "a/b.parquet", "..", "..\\secret.parquet", "a\0b", "", "s3://b/x"]
)
def test_a_shard_is_a_file_of_its_own_folder(name: str, tmp_path: Path) -> None:
    write_image_set(tmp_path / "set", INFO, IMAGES, LABELS)
    path = tmp_path / "set" / MANIFEST_NAME
    values = json.loads(path.read_text())
    shutil.copy(tmp_path / "set" / values["shards"][0]["name"], tmp_path / "secret.parquet")
    values["shards"][0]["name"] = name
    path.write_text(json.dumps(values))
    with pytest.raises(ImageSetError, match=r"manifest\.json is corrupt \(shards\.0\.name: String should match"):
        ImageSet(tmp_path / "set")


def test_a_set_cannot_claim_pictures_of_any_size() -> None:
    with pytest.raises(ValueError, match="at most 89,478,485 pixels, got 100000x100000"):
        ImageSetInfo(class_names=("a",), height_px=100_000, width_px=100_000, channels=3)


def bomb(width: int, height: int) -> bytes:
    """A PNG of many black pixels in few bytes."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_bomb_is_refused_before_it_is_decoded_and_named(tmp_path: Path) -> None:
    data = bomb(10_000, 9_000)
    assert 10_000 * 9_000 > MAX_PIXELS > len(data) * 100
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a user's process, where Pillow only warns
        for read in (
            lambda: decode_picture(data, (1, 9_000, 10_000), "picture x"),
            lambda: import_images("image-folder", str(tmp_path), str(tmp_path / "set"), size_px=4),
        ):
            with pytest.raises(ImageSetError, match=r"x.* cannot be decoded \(.*(10000x9000 px|90000000 pixels)"):
                read()


def test_a_picture_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encode_png(IMAGES[0]))
    with path.open("r+b") as stream:
        stream.truncate(2**29 + 1)  # sparse
    with (
        pytest.raises(ImageSetError, match=r"x\.png cannot be decoded \(it has 536,870,913 bytes, more than 5"),
        decoding(str(path)),
    ):
        open_picture(path)


def test_a_program_is_no_picture(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "EPS")
    assert "EPS" not in FORMATS
    with pytest.raises(ImageSetError, match="no known picture format"):
        decode_picture(buffer.getvalue(), (3, 4, 4), "x")


def test_a_shard_unpacks_to_no_more_than_its_pictures_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_set(tmp_path / "set", INFO, IMAGES, LABELS)
    monkeypatch.setattr(files_module, "MAX_ROW_GROUP_BYTES", 10_000)
    (shard,) = ImageSet(tmp_path / "set").manifest.shards
    assert len(ImageSet(tmp_path / "set").read()) == 3
    table = pq.read_table(io.BytesIO(encode_shard(INFO, IMAGES, LABELS, np.arange(3)))).to_pydict()
    table["image"] = [{"bytes": bytes(10_000), "path": "x"}] * 3
    columns = {"image": pa.array(table["image"], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    columns |= {name: pa.array(table[name], pa.int64()) for name in ("label", "image_id")}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", use_dictionary=False)
    assert len(buffer.getvalue()) < 3_000
    (tmp_path / "set" / shard.name).write_bytes(buffer.getvalue())
    with (
        pytest.raises(SioRayError, match=r"row group 0 unpacks to 30,\d\d\d bytes, more than 10,000"),
        files_module.open_shard(ImageSet(tmp_path / "set").folder, shard.name),
    ):
        pass


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "C:\\x.png", "..\\x.png", "\\\\host\\x"])
def test_an_image_list_names_files_below_its_root(name: str, tmp_path: Path) -> None:
    assert not stays_inside(name)
    (tmp_path / "list.txt").write_text(f"{name} 0\n")
    with pytest.raises(ImageSetError, match="must be a path below its root, got"):
        openood.open_source(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("name", ["x.png", "a/b/x.png", "a..b/x.png", "...", "a b.png"])
def test_other_relative_paths_stay_inside(name: str) -> None:
    assert stays_inside(name)


def test_data_sets_that_torchvision_unpickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.source=cifar10 reads its binary version"):
        import_images("torchvision", "CIFAR10", str(tmp_path / "set"), root=str(tmp_path))


def test_pictures_of_the_largest_size_pass() -> None:
    with bombs_are_errors(), decoding("x"), open_picture(bomb(9_400, 9_500)) as picture:
        assert picture.size == (9_400, 9_500)
