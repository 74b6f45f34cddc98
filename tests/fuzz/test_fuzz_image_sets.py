"""Whatever a shard, a manifest or a picture holds, its readers give pictures or an error of ours."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import broken, broken_json, fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sio_ray.errors import SioRayError
from sio_ray.imageset import ImageSet, ImageSetInfo, Manifest, ShardEntry, write_image_set
from sio_ray.imageset.exchange import export_images, image_folder, npy, openood
from sio_ray.imageset.exchange.rows import stored_shards
from sio_ray.imageset.lookup import pictures_by_id
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.pictures import decode_picture, encode_png
from sio_ray.imageset.sample import first_rows, sample_pictures
from sio_ray.imageset.shard import encode_shard
from sio_ray.imageset.storage import Folder
from sio_ray.imageset.summary import summarize, summarize_below
from sio_ray.imageset.verify import verify_image_set

INFO = ImageSetInfo(class_names=("a", "b"), height_px=6, width_px=5, channels=3)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *INFO.image_shape), dtype=np.uint8)
LABELS = np.arange(6) % 2
SHARD = encode_shard(INFO, IMAGES, LABELS, np.arange(6))


@contextlib.contextmanager
def only_our_errors() -> Iterator[None]:
    with contextlib.suppress(SioRayError):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "set"
    write_image_set(folder, INFO, IMAGES, LABELS)
    return folder


def read_in_every_way(folder: Path) -> None:
    readers = (
        lambda: ImageSet(folder).read(),
        lambda: list(ImageSet(folder).shards()),
        lambda: first_rows(ImageSet(folder), 3),
        lambda: sample_pictures(ImageSet(folder), {0: 2, 1: 1}, seed=0),
        lambda: pictures_by_id(ImageSet(folder), [0, 5]),
        lambda: list(stored_shards(ImageSet(folder))),
        lambda: verify_image_set(str(folder), num_workers=1),
        lambda: summarize(str(folder)),
    )
    for read in readers:
        with only_our_errors():
            read()


def vouch_for(folder: Path, data: bytes) -> None:
    """Make the manifest name these bytes, as an attacker would."""
    entry = ShardEntry.of("part-00000-of-00001.parquet", 6, data)
    (folder / entry.name).write_bytes(data)
    manifest = Manifest(info=INFO, num_images=6, class_counts=(3, 3), shards=(entry,))
    manifest.write(Folder(str(folder)))


@fuzz
@given(data=broken(SHARD))
def test_a_shard_of_any_bytes(data: bytes, folder: Path) -> None:
    vouch_for(folder, data)
    read_in_every_way(folder)


_COLUMNS = st.sampled_from(
    [
        pa.array([None] * 6, pa.int64()),
        pa.array([2**63 - 1, -(2**63), 0, 1, 2, 3], pa.int64()),
        pa.array(["x"] * 6),
        pa.array([[1]] * 6),
        pa.array([{"bytes": None, "path": None}] * 6, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.array([{"bytes": b"x", "path": 3}] * 6),
        pa.array([None] * 6, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.array([{"bytes": encode_png(image), "path": "x"} for image in IMAGES]),
    ]
)


@fuzz
@given(columns=st.dictionaries(st.sampled_from(["image", "label", "image_id", "x"]), _COLUMNS), codec=st.booleans())
def test_a_table_of_any_columns(columns: dict[str, pa.Array], codec: bool, folder: Path) -> None:
    good = pq.read_table(io.BytesIO(SHARD)).to_pydict()
    table = pa.table(
        {**{name: pa.array(values) for name, values in good.items()}, **columns}
        if codec
        else columns or {"x": pa.array([1])}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd" if codec else "none")
    vouch_for(folder, buffer.getvalue())
    read_in_every_way(folder)


@fuzz
@given(st.data())
def test_a_manifest_of_any_values(folder: Path, data: st.DataObject) -> None:
    vouch_for(folder, SHARD)
    good = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps(data.draw(broken_json(good))))
    read_in_every_way(folder)
    with only_our_errors():
        summarize_below(str(folder.parent))


@fuzz
@given(st.data())
def test_a_manifest_of_any_bytes(folder: Path, data: st.DataObject) -> None:
    vouch_for(folder, SHARD)
    (folder / MANIFEST_NAME).write_bytes(data.draw(broken((folder / MANIFEST_NAME).read_bytes())))
    read_in_every_way(folder)


def test_a_manifest_that_is_nested_without_end(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_text("[" * 100_000)
    with pytest.raises(SioRayError, match="nested too deeply"):
        ImageSet(folder)


def picture_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[0].transpose(1, 2, 0)).save(buffer, kind)
    return buffer.getvalue()


@fuzz
@given(st.data())
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_picture_of_any_bytes(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    encoded = data.draw(broken(picture_bytes(kind)))
    with only_our_errors():
        decode_picture(encoded, INFO.image_shape, "a picture")
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / "x.png").write_bytes(encoded)
    with only_our_errors():
        image_folder.open_source(str(tmp_path), size_px=4, channels=3).read(0, 1)


@fuzz
@given(text=st.text() | broken(b"a/x.png 0\na/y.png 1\n") | st.sampled_from(["/etc/x 0", "../x 0", f"x {10**30}"]))
def test_an_image_list_of_any_text(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with only_our_errors():
        openood.open_source(str(path))


@fuzz
@given(st.data())
@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_arrays_of_any_bytes(name: str, tmp_path: Path, data: st.DataObject) -> None:
    np.save(tmp_path / "images.npy", IMAGES.transpose(0, 2, 3, 1))
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / name).write_bytes(data.draw(broken((tmp_path / name).read_bytes())))
    with only_our_errors():
        npy.open_source(str(tmp_path)).read(0, 1)


@fuzz
@given(names=st.lists(st.text(min_size=1, max_size=6) | st.sampled_from(["..", "/x", "a/../../b", "con"]), min_size=1))
def test_class_names_never_lead_out_of_an_export(names: list[str], tmp_path: Path) -> None:
    names = list(dict.fromkeys(names))
    info = INFO.model_copy(update={"class_names": tuple(names)})
    images = np.zeros((len(names), *INFO.image_shape), dtype=np.uint8)
    inner = tmp_path / "inner"
    shutil.rmtree(inner, ignore_errors=True)
    with only_our_errors():
        write_image_set(inner / "set", info, images, np.arange(len(names)))
        export_images("image-folder", str(inner / "set"), inner / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"inner"}
