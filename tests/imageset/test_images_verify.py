"""`verify` finds whatever was done to a set, names it, and finds nothing in a set that is whole."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imageset_samples import adopt_bytes, hollow_png, make_images, make_info, make_labels, write_random_set

from sio_ray.cli import main
from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset import ImageSet, ImageSetInfo, Manifest, ShardEntry
from sio_ray.imageset.pictures import encode_png
from sio_ray.imageset.schema import arrow_schema
from sio_ray.imageset.shard import encode_shard, pack_shard, shard_name
from sio_ray.imageset.storage import Folder
from sio_ray.imageset.verify import verify_image_set

SECOND = "part-00001-of-00003.parquet"
INFO = make_info()


def change_manifest(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 8, 8)])
@pytest.mark.parametrize("num_classes", [3, 0])
def test_a_whole_set_is_ok(shape: tuple[int, int, int], num_classes: int, tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4, shape=shape, num_classes=num_classes)
    seen: list[tuple[int, int]] = []
    verdict = verify_image_set(str(tmp_path / "set"), on_shard=lambda done, total: seen.append((done, total)))
    assert verdict.ok
    assert (verdict.bad_shards, verdict.problems, verdict.leftovers) == ({}, (), ())
    assert (verdict.num_images, verdict.num_shards, verdict.num_bytes) == (10, 3, image_set.manifest.num_bytes)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_every_changed_byte_of_a_shard_is_found(tmp_path: Path) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    path = tmp_path / "set" / SECOND
    whole = path.read_bytes()
    for position in np.random.default_rng(0).choice(len(whole), 40, replace=False).tolist():
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        verdict = verify_image_set(str(tmp_path / "set"))
        assert verdict.bad_shards == {SECOND: "has other bytes than the manifest says (SHA-256)"}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says"),
        (lambda path: path.write_bytes(b""), "has 0 bytes, the manifest says"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read ("),
    ],
)
def test_a_shard_that_is_not_what_was_written_is_named(
    damage: Callable[[Path], Any], reason: str, tmp_path: Path
) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    damage(tmp_path / "set" / SECOND)
    verdict = verify_image_set(str(tmp_path / "set"))
    assert not verdict.ok
    assert list(verdict.bad_shards) == [SECOND]
    assert reason in verdict.bad_shards[SECOND]


def shard(
    labels: list[int] | None = None, ids: list[int] | None = None, info: ImageSetInfo = INFO, count: int = 4
) -> bytes:
    """A shard in place of the second one, whose ids are 4, 5, 6, 7."""
    chosen = make_labels(count, INFO) if labels is None else np.array(labels)
    return encode_shard(info, make_images(count, info), chosen, np.array(ids or range(4, 4 + count)))


def parquet(change: Callable[[pa.Table], pa.Table]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(change(pq.read_table(io.BytesIO(shard()))), buffer)
    return buffer.getvalue()


def with_picture(data: bytes | None) -> bytes:
    pictures = [encode_png(image) for image in make_images(4, INFO)]
    pictures[2] = data  # type: ignore[call-overload]
    return pack_shard(INFO, pictures, make_labels(4, INFO), np.arange(4, 8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no parquet at all", "is no readable Parquet file (Parquet magic bytes not found"),
        (shard(count=3), "has 3 rows, the manifest says 4"),
        (shard(info=make_info(source="elsewhere")), "(schema metadata sio_ray)"),
        (shard(info=make_info((3, 7, 5))), "(schema metadata sio_ray)"),
        (parquet(lambda table: table.replace_schema_metadata(None)), "(schema metadata "),
        (parquet(lambda table: table.drop_columns("label")), "has columns image struct<bytes: binary, path: string>, "),
        (
            parquet(lambda table: table.set_column(1, "label", pa.array([0, None, 1, 2]))),
            "has 1 nulls in column label",
        ),
        (shard(labels=[0, 1, 3, 0]), "has label 3 at image_id 6, the set allows [0, 3)"),
        (shard(labels=[0, 1, -1, 0]), "has label -1 at image_id 6, the set allows [0, 3)"),
        (shard(ids=[4, 5, 7, 6]), "has image_id 7 at row 2, where 6 must be"),
        (shard(ids=[0, 1, 2, 3]), "has image_id 0 at row 0, where 4 must be"),
        (shard(ids=[4, 5, 5, 7]), "has image_id 5 at row 2, where 6 must be; some of its ids are there twice"),
        (shard(ids=[4, 5, 16, 7]), "has image_id 16 at row 2, where 6 must be"),
        (with_picture(encode_png(make_images(1, make_info((3, 7, 5)))[0])), "image_id 6 is 5x7 px, its set says 7x5"),
        (with_picture(hollow_png(7, 5)), "image_id 6 cannot be decoded ("),
        (with_picture(hollow_png(60_000, 60_000)), "image_id 6 cannot be decoded (Image size (3600000000 pixels)"),
        (with_picture(b"<svg/>"), "image_id 6 cannot be decoded (no known picture format)"),
        (with_picture(None), "image_id 6 cannot be decoded (no known picture format)"),
    ],
)
def test_a_shard_that_the_manifest_vouches_for_is_judged_by_its_content(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    adopt_bytes(tmp_path / "set", data, shard_id=1)
    verdict = verify_image_set(str(tmp_path / "set"))
    assert list(verdict.bad_shards) == [SECOND]
    assert reason in verdict.bad_shards[SECOND]


def write_curated_set(folder: Path, attempts: list[int], num_rejected: int) -> None:
    """A set of 8 in two shards, whose picture for place i is number `attempts[i]` that was tried for it."""
    info = INFO.model_copy(update={"provenance": {"id_stride": 9}})  # the next multiple of three classes
    ids = np.arange(8) + 9 * np.array(attempts)
    images, labels, entries = make_images(8, INFO), make_labels(8, INFO), []
    for shard_id, rows in enumerate((slice(0, 4), slice(4, 8))):
        rejected = [int(i % 9) for i in ids[rows] if i >= 9]
        pictures = [encode_png(image) for image in images[rows]]
        data = pack_shard(info, pictures, labels[rows], ids[rows], rejected_ids=rejected)
        count = len(rejected) if num_rejected else 0
        entries.append(ShardEntry.of(shard_name(shard_id, 2), 4, data, num_rejected=count))
        Folder(str(folder)).write_bytes(entries[-1].name, data)
    manifest = Manifest(info=info, num_images=8, class_counts=(3, 3, 2), shards=tuple(entries))
    manifest.write(Folder(str(folder)))


def test_ids_of_a_curated_set_are_its_places_plus_multiples_of_its_stride(tmp_path: Path) -> None:
    write_curated_set(tmp_path / "set", [0, 1, 0, 0, 2, 0, 0, 1], num_rejected=3)
    assert verify_image_set(str(tmp_path / "set")).ok
    write_curated_set(tmp_path / "uncurated", [0, 1, 0, 0, 2, 0, 0, 1], num_rejected=0)
    verdict = verify_image_set(str(tmp_path / "uncurated"))
    assert set(verdict.bad_shards.values()) == {
        "names 1 rejected ids, the manifest says 0",
        "names 2 rejected ids, the manifest says 0",
    }
    image_set = ImageSet(tmp_path / "set")
    for ids, reason in [
        ([0, 19, 11, 3], None),
        ([0, 11, 2, 3], "has image_id 11 at row 1, where 1 plus a multiple of 9 must be"),
        ([0, -7, 2, 3], "has image_id -7 at row 1, where 1 plus a multiple of 9 must be"),
    ]:
        pictures = [encode_png(image) for image in make_images(4, INFO)]
        data = pack_shard(image_set.info, pictures, make_labels(4, INFO), np.array(ids), rejected_ids=[1])
        entry = ShardEntry.of(shard_name(0, 2), 4, data, num_rejected=1)
        (tmp_path / "set" / entry.name).write_bytes(data)
        shards = (entry, image_set.manifest.shards[1])
        image_set.manifest.model_copy(update={"shards": shards}).write(image_set.folder)
        assert verify_image_set(image_set.uri).bad_shards == ({} if reason is None else {entry.name: reason})


def test_a_manifest_that_contradicts_its_shards_is_found(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4)
    change_manifest(tmp_path / "set", class_counts=[4, 2, 4])
    assert verify_image_set(image_set.uri).problems == ("manifest.json has wrong class counts (b 3 not 2, c 3 not 4)",)
    change_manifest(tmp_path / "set", class_counts=[4, 3, 3], num_images=11)
    with pytest.raises(
        ImageSetError, match=r"is corrupt \(manifest: Value error, its shards hold 10 images, it says 11\)"
    ):
        verify_image_set(image_set.uri)
    first = image_set.manifest.shards[0].model_dump()
    change_manifest(tmp_path / "set", num_images=8, shards=[first, first])
    verdict = verify_image_set(image_set.uri)
    assert "manifest.json names part-00000-of-00003.parquet 2 times" in verdict.problems
    assert verdict.bad_shards == {first["name"]: "has image_id 0 at row 0, where 4 must be"}


def test_files_that_do_not_belong_to_the_set_are_named(tmp_path: Path) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    (tmp_path / "set" / "part-00000-of-00003.parquet.0a1b2c3d.partial").write_bytes(b"half a shard")
    (tmp_path / "set" / "readme.md").write_text("mine")
    verdict = verify_image_set(str(tmp_path / "set"))
    assert verdict.ok
    assert verdict.leftovers == ("part-00000-of-00003.parquet.0a1b2c3d.partial",)
    (tmp_path / "set" / "part-00003-of-00004.parquet").write_bytes(b"of another set")
    verdict = verify_image_set(str(tmp_path / "set"))
    assert not verdict.ok
    assert verdict.problems == (
        "part-00003-of-00004.parquet is not in the manifest, but other readers would take it for a shard; delete it",
    )


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 32, 2)
    names = [entry.name for entry in image_set.manifest.shards]
    (tmp_path / "set" / names[3]).unlink()
    (tmp_path / "set" / names[10]).write_bytes(b"")
    alone, together = (verify_image_set(image_set.uri, num_workers=number) for number in (1, 2))
    assert alone.bad_shards == together.bad_shards
    assert list(alone.bad_shards) == [names[3], names[10]]


def test_the_death_of_a_process_is_said_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random_set(tmp_path / "set", 32, 2)

    def die(pool: ProcessPoolExecutor, *_: Any) -> Future[None]:
        future: Future[None] = Future()
        future.set_exception(BrokenExecutor("killed"))
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", die)
    with pytest.raises(ResourceError, match=r"a process that checks shards died, .*; check with fewer \(--workers 1\)"):
        verify_image_set(str(tmp_path / "set"), num_workers=2)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["images", "verify", *arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_the_command_ends_with_0_1_or_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "set")
    code, _, err = run(capsys, uri)
    assert (code, err.strip()) == (
        2,
        f"error: image set {uri} does not exist or is empty; check the path, or run the stage that writes it.",
    )
    write_random_set(uri, 10, 4)
    code, out, _ = run(capsys, uri)
    assert code == 0
    assert out.startswith("ok: 10 images in 3 shards, 10.4 kB, checked in ")
    (tmp_path / "set" / SECOND).unlink()
    code, out, _ = run(capsys, uri)
    assert code == 1
    assert f"{SECOND} is missing\n" in out
    assert "bad: 1 shard, 0 other problems of 10 images in 3 shards" in out
    code, out, _ = run(capsys, uri, "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["bad_shards"]) == (1, False, {SECOND: "is missing"})
    (tmp_path / "set" / "manifest.json").unlink()
    code, out, _ = run(capsys, uri)
    assert code == 1
    assert "2 of 3 shards" in out
    code, out, _ = run(capsys, uri, "--json")
    assert (code, json.loads(out)) == (1, {"ok": False, "uri": uri, "num_shards_done": 2, "num_shards": 3})


def test_the_schema_of_a_written_shard_is_the_sets(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4, generator={"b": 1.5, "a": [1, "x"]})
    for entry in image_set.manifest.shards:
        assert pq.read_schema(tmp_path / "set" / entry.name).equals(arrow_schema(image_set.info), check_metadata=True)
