"""What holds of a folder wherever it is."""

from __future__ import annotations

import pickle

import pytest

from sio_ray.imageset.storage import Folder


def check_folder(folder: Folder) -> None:
    """Use every method of a folder that does not exist yet; nothing is left of it."""
    assert not folder.exists()
    assert folder.list() == folder.files(below=True) == {}
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("a")
    with pytest.raises(FileNotFoundError), folder.open("a"):
        pass

    folder.write_bytes("a", b"old and long")
    folder.write_bytes("a", b"new")
    folder.write_bytes("empty", b"")
    below = folder.subfolder("b c").subfolder("d")
    below.write_bytes("a", b"below")
    folder.subfolder("b c/e").write_bytes("f", b"1")

    assert folder.exists()
    assert folder.exists("a")
    assert not folder.exists("b")
    assert folder.read_bytes("a") == b"new"
    assert folder.read_bytes("empty") == b""
    assert folder.list() == {"a": 3, "empty": 0}
    assert folder.files(below=True) == {"a": 3, "empty": 0, "b c/d/a": 5, "b c/e/f": 1}
    with folder.open("a") as stream:
        stream.seek(1)
        assert stream.read() == b"ew"
    assert pickle.loads(pickle.dumps(below)).read_bytes("a") == b"below"  # noqa: S301
    assert below.name == "d"

    folder.delete("a")
    folder.delete("a")
    assert folder.list() == {"empty": 0}
    below.delete_folder()
    below.delete_folder()
    assert folder.files(below=True) == {"empty": 0, "b c/e/f": 1}
    folder.delete_folder()
    assert not folder.exists("empty")
    assert folder.list() == {}
