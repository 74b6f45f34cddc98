"""`ls` says what sets are from their manifests alone, and finds all that lie below a folder."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from imageset_samples import write_random_set

from sio_ray.cli import main
from sio_ray.commands.set_text import in_bytes
from sio_ray.errors import ImageSetError
from sio_ray.imageset import Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.imageset.summary import (
    SetSummary,
    UnfinishedSet,
    UnreadableSet,
    find_image_sets,
    summarize,
    summarize_below,
)


def test_a_summary_is_what_the_manifest_says_and_reads_no_shard(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4, generator="g")
    for shard in image_set.manifest.shards:
        (tmp_path / "set" / shard.name).unlink()
    assert summarize(image_set.uri) == SetSummary(
        uri=image_set.uri,
        num_images=10,
        class_names=("a", "b", "c"),
        class_counts=(4, 3, 3),
        height_px=5,
        width_px=7,
        channels=3,
        num_shards=3,
        num_bytes=image_set.manifest.num_bytes,
        num_rejected=0,
        provenance={"generator": "g"},
    )


def test_the_share_of_rejected_pictures_is_of_all_that_were_drawn(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4)
    shards = [shard.model_copy(update={"num_rejected": 10}) for shard in image_set.manifest.shards]
    image_set.manifest.model_copy(update={"shards": tuple(shards)}).write(image_set.folder)
    summary = summarize(image_set.uri)
    assert isinstance(summary, SetSummary)
    assert (summary.num_rejected, summary.share_rejected) == (30, 0.75)


@pytest.mark.parametrize("as_uri", [False, True])
def test_every_set_below_a_folder_is_found(as_uri: bool, tmp_path: Path) -> None:
    places = ["a b", "id/train", "id/val", "ood/near/x"]
    for place in places:
        write_random_set(tmp_path / "all" / place)
    (tmp_path / "all" / "id" / "val" / "manifest.json").unlink()
    (tmp_path / "all" / "other" / "deep").mkdir(parents=True)
    (tmp_path / "all" / "other" / "part.parquet").write_bytes(b"of somebody else")
    root = f"file://{quote(str(tmp_path / 'all'))}" if as_uri else str(tmp_path / "all")
    found = find_image_sets(root)
    assert {place: unquote(uri) for place, uri in found.items()} == {p: f"{unquote(root)}/{p}" for p in places}
    assert find_image_sets(found["id/train"]) == {"": found["id/train"]}
    kinds = [type(summary) for summary in summarize_below(root).values()]
    assert kinds == [SetSummary, SetSummary, UnfinishedSet, SetSummary]


@pytest.mark.parametrize("place", ["", "deeper"])
def test_a_folder_without_sets_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty" / place).mkdir(parents=True)
    with pytest.raises(ImageSetError, match=r"there is no image set in .*/empty nor below \(manifest\.json or part-"):
        find_image_sets(str(tmp_path / "empty"))


def test_an_unfinished_set_says_how_much_of_it_is_there(tmp_path: Path) -> None:
    for shard_id in range(37):
        Folder(str(tmp_path / "set")).write_bytes(f"part-{shard_id:05d}-of-00512.parquet", b"")
    (tmp_path / "set" / "part-00001-of-00003.parquet").write_bytes(b"stale")
    expected = UnfinishedSet(uri=str(tmp_path / "set"), num_shards_done=37, num_shards=512)
    assert summarize(str(tmp_path / "set")) == expected


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["images", *arguments])
    captured = capsys.readouterr()
    assert captured.err == "" or stop.value.code
    return int(stop.value.code or 0), "\n".join(line.rstrip() for line in captured.out.splitlines())


def test_ls_of_one_set_fits_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    drawn_with = {"source": "synthetic", "scheduler": "edm_euler", "num_inference_steps": 18, "base_seed": 0}
    image_set = write_random_set("set", 10, 4, **drawn_with)
    (first, *rest) = image_set.manifest.shards
    shards = (first.model_copy(update={"num_rejected": 10}), *rest)
    image_set.manifest.model_copy(update={"shards": shards}).write(image_set.folder)
    size = f"{image_set.manifest.num_bytes / 1000:.1f} kB, {image_set.manifest.num_bytes / 10000:.1f} kB an image"
    assert run(capsys, "ls", "set") == (
        0,
        "set\n"
        "  images     10, each 7x5 px, RGB\n"
        "  classes    3 of 3..4 images each: a, b, c\n"
        f"  files      3 shards, {size}\n"
        "  source     synthetic\n"
        "  scheduler  edm_euler\n"
        "  steps      18\n"
        "  base seed  0\n"
        "  rejected   50.0 % of 20 that were drawn",
    )
    (tmp_path / "set" / "manifest.json").unlink()
    code, out = run(capsys, "ls", "set")
    assert code == 0
    assert out.splitlines()[:2] == ["set", "  unfinished  3 of 3 shards"]


def test_ls_of_a_folder_is_a_table_that_one_bad_set_does_not_spoil(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for place, num_classes in (("id/train", 3), ("bad", 3), ("ood", 0), ("begun", 3)):
        write_random_set(tmp_path / "all" / place, num_classes=num_classes)
    (tmp_path / "all" / "bad" / "manifest.json").write_text("{}")
    (tmp_path / "all" / "begun" / "manifest.json").unlink()
    assert isinstance(summarize_below(str(tmp_path / "all"))["bad"], UnreadableSet)
    code, out = run(capsys, "ls", str(tmp_path / "all"))
    words = [line.split() for line in out.splitlines() if line.strip()]
    assert code == 0
    assert words[0] == ["set", "images", "classes", "HxWxC", "shards", "bytes", "per", "image"]
    assert words[2] == ["bad", "unreadable"]
    assert words[3] == ["begun", "unfinished", "3", "of", "3"]
    assert words[4][:5] == ["id/train", "10", "3", "5x7x3", "3"]
    assert words[5][:5] == ["ood", "10", "OOD", "5x7x3", "3"]
    assert "is corrupt (info: Field required)" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines())
    code, out = run(capsys, "ls", str(tmp_path / "all"), "--json")
    manifest = Manifest.read(Folder(str(tmp_path / "all" / "id" / "train")))
    rows = {Path(row["uri"]).name: row for row in json.loads(out)}
    assert (rows["train"]["num_images"], rows["train"]["num_bytes"]) == (10, manifest.num_bytes)
    assert rows["begun"]["num_shards_done"] == 3
    code, _ = run(capsys, "ls", str(tmp_path / "all" / "bad"))
    assert code == 2


def test_head_prints_a_row_per_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write_random_set(tmp_path / "set", 10, 4)
    code, out = run(capsys, "head", str(tmp_path / "set"), "-n", "5")
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert code == 0
    assert rows[0] == ["image_id", "label", "class", "format", "size,", "px", "bytes", "path"]
    assert [row[:5] for row in rows[2:]] == [[str(i), str(i % 3), "abc"[i % 3], "PNG", "7x5"] for i in range(5)]
    code, out = run(capsys, "head", str(tmp_path / "set"), "--json")
    assert [row["image_id"] for row in json.loads(out)] == list(range(10))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (99_940, "99.9 kB"), (312e6, "312 MB"), (2.5e15, "2500 TB")],
)
def test_sizes_have_two_or_three_digits(number: float, text: str) -> None:
    assert in_bytes(number) == text


@pytest.mark.parametrize("command", ["ls", "show", "head", "verify", "import", "export"])
def test_help_fits_a_screen_and_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out = run(capsys, command, "--help")
    assert code == 0
    assert len(out.splitlines()) <= 35
    assert f"sio-ray images {command}" in out.split("Example:")[1]
