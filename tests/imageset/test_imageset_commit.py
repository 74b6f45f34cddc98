"""The manifest commits a set; a write that fails leaves neither half a file nor a set that looks finished."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imageset_samples import file_bytes, make_images, make_info, make_labels, write_random_set

from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset import ImageSet, write_image_set
from sio_ray.imageset.storage import Folder


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("writes_before_death", [0, 1, 2, 3])
def test_a_set_is_unfinished_until_its_last_file_and_a_rerun_completes_it(
    writes_before_death: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_set(tmp_path / "undisturbed", 10, 4)
    write, written = Folder.write_bytes, []

    def write_then_die(folder: Folder, name: str, data: bytes) -> None:
        if len(written) == writes_before_death:
            raise Killed
        written.append(name)
        write(folder, name, data)

    monkeypatch.setattr(Folder, "write_bytes", write_then_die)
    with pytest.raises(Killed):
        write_random_set(tmp_path / "set", 10, 4)
    monkeypatch.undo()
    assert written == [f"part-{k:05d}-of-00003.parquet" for k in range(writes_before_death)]
    unfinished = r"is unfinished \(it has no manifest\.json\); run the stage that writes it again, it continues"
    with pytest.raises(ImageSetError, match=unfinished if written else "does not exist or is empty"):
        ImageSet(tmp_path / "set")
    write_random_set(tmp_path / "set", 10, 4)
    assert file_bytes(tmp_path / "set") == file_bytes(tmp_path / "undisturbed")


@pytest.mark.parametrize("make_folder", [False, True])
def test_a_missing_or_empty_folder_is_named(make_folder: bool, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    if make_folder:
        folder.mkdir()
    with pytest.raises(ImageSetError) as caught:
        ImageSet(folder)
    assert str(caught.value) == (
        f"image set {folder} does not exist or is empty; check the path, or run the stage that writes it."
    )


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("in the way")
    with pytest.raises(ImageSetError, match=r"image set .*/set cannot be read \(.*Not a directory\); give a folder"):
        ImageSet(tmp_path / "set")
    with pytest.raises(ResourceError, match=r"cannot write .*/set/part-00000-of-00003\.parquet \(.*File exists"):
        write_random_set(tmp_path / "set")
    assert (tmp_path / "set").read_text() == "in the way"


def test_a_finished_set_is_never_overwritten(tmp_path: Path) -> None:
    write_random_set(tmp_path / "set", 10, 4)
    before = file_bytes(tmp_path / "set")
    with pytest.raises(
        ImageSetError, match=r"image set .*/set exists already; give another folder, or delete it first"
    ):
        write_random_set(tmp_path / "set", 12, 4)
    assert file_bytes(tmp_path / "set") == before


def test_partial_files_are_not_seen_by_anyone(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "part-00000-of-00003.parquet.0a1b2c3d.partial").write_bytes(b"half a shard")
    (folder / "manifest.json.0a1b2c3d.partial").write_bytes(b"{")
    with pytest.raises(ImageSetError, match="does not exist or is empty"):
        ImageSet(folder)
    image_set = write_random_set(folder, 10, 4)
    assert len(image_set.read()) == 10
    assert set(image_set.folder.list()) == {"manifest.json", *(shard.name for shard in image_set.manifest.shards)}


def test_folders_inside_a_set_are_not_files_of_it(tmp_path: Path) -> None:
    (tmp_path / "set" / "deeper").mkdir(parents=True)
    with pytest.raises(ImageSetError, match="does not exist or is empty"):
        ImageSet(tmp_path / "set")


def _full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("fail", "error"), [(_full_disk, ResourceError), (_interrupt, KeyboardInterrupt)])
def test_a_write_that_fails_leaves_the_old_file_and_no_partial_one(
    call: str,
    fail: Callable[..., None],
    error: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Folder(str(tmp_path / "folder"))
    folder.write_bytes("file", b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(error) as caught:
        folder.write_bytes("file", b"new")
    with pytest.raises(error):
        folder.write_bytes("another", b"new")
    monkeypatch.undo()
    assert file_bytes(tmp_path / "folder") == {"file": b"old"}
    if error is ResourceError:
        assert str(caught.value) == (
            f"cannot write {tmp_path}/folder/file ([Errno 28] No space left on device); "
            "give a folder that you may write to, with space left."
        )
    folder.write_bytes("file", b"new")
    assert file_bytes(tmp_path / "folder") == {"file": b"new"}


def test_a_set_whose_disk_fills_up_is_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, []

    def replace_once(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            _full_disk()
        replace(*arguments)

    monkeypatch.setattr(os, "replace", replace_once)
    with pytest.raises(ResourceError, match=r"part-00001-of-00003\.parquet \(\[Errno 28\] No space left on device\)"):
        write_random_set(tmp_path / "set", 10, 4)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["part-00000-of-00003.parquet"]
    with pytest.raises(ImageSetError, match="is unfinished"):
        ImageSet(tmp_path / "set")


def test_an_unknown_scheme_is_named(tmp_path: Path) -> None:
    for use in (ImageSet, write_random_set):
        with pytest.raises(ImageSetError, match=r"gopher://hole/set is no path or URI .*gopher.*; check its scheme\."):
            use("gopher://hole/set")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format_version": 1}', '{"shards": "none"}'])
def test_a_manifest_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    write_random_set(tmp_path / "set")
    (tmp_path / "set" / "manifest.json").write_text(text)
    with pytest.raises(ImageSetError, match=r"set/manifest\.json is corrupt \(.+\); delete it and run the stage"):
        ImageSet(tmp_path / "set")


def test_a_manifest_of_a_newer_format_is_not_called_corrupt(tmp_path: Path) -> None:
    write_random_set(tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 3, "unheard_of": True}))
    with pytest.raises(ImageSetError, match=r"set is of format 3, this sio_ray reads up to 2; install the version"):
        ImageSet(tmp_path / "set")


def test_a_manifest_of_no_image_is_refused(tmp_path: Path) -> None:
    write_random_set(tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_images": 0, "shards": []}))
    with pytest.raises(ImageSetError, match="holds no image; give a set with at least one"):
        ImageSet(tmp_path / "set")


INFO = make_info((3, 5, 7))
IMAGES, LABELS = make_images(6, INFO), make_labels(6, INFO)
OOD = make_info((3, 5, 7), num_classes=0)
SHAPE = r"images must be uint8 of shape \(N, 3, 5, 7\), got"


@pytest.mark.parametrize(
    ("info", "images", "labels", "options", "message"),
    [
        (INFO, IMAGES[:0], LABELS[:0], {}, "would hold no image; give at least one"),
        (INFO, IMAGES[..., :6], LABELS, {}, SHAPE + r" uint8 of shape \(6, 3, 5, 6\); bring them to one size first"),
        (INFO, IMAGES[:, :1], LABELS, {}, SHAPE + r" uint8 of shape \(6, 1, 5, 7\)"),
        (INFO, IMAGES[:, 0], LABELS, {}, SHAPE + r" uint8 of shape \(6, 5, 7\)"),
        (INFO, IMAGES / np.float32(255), LABELS, {}, SHAPE + r" float32 of shape \(6, 3, 5, 7\)"),
        (INFO, IMAGES, LABELS[:5], {}, "6 images but 5 labels; give one label each"),
        (INFO, IMAGES, LABELS + 1, {}, r"labels must be in \[0, 3\), got 1\.\.3; number the classes from 0"),
        (INFO, IMAGES, LABELS - 1, {}, r"labels must be in \[0, 3\), got -1\.\.1"),
        (INFO, IMAGES, np.minimum(LABELS, 1), {}, "has no image of class c; add some, or drop the class"),
        (INFO, IMAGES, LABELS * 0, {}, "has no image of class b, c;"),
        (OOD, IMAGES, LABELS, {}, r"names no classes, so every label must be -1 \(OOD\)"),
        (INFO, IMAGES, LABELS, {"paths": ["x"] * 5}, "6 images but 5 paths; give one path each"),
        (INFO, IMAGES, LABELS, {"images_per_shard": 0}, "images_per_shard must be at least 1, got 0"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused_before_anything_is_written(
    info: Any, images: Any, labels: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageSetError, match=f"image set {tmp_path}/set:? {message}"):
        write_image_set(tmp_path / "set", info, images, labels, **options)
    assert not (tmp_path / "set").exists()
