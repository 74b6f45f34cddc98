"""A folder is a path or a URI: every method holds on each kind, names go where they belong, and secrets nowhere."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folder_laws import check_folder
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from fsspec.registry import known_implementations
from imageset_samples import make_images, make_info, write_random_set
from pyarrow import fs

from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset import clients
from sio_ray.imageset.storage import PARTIAL_SUFFIX, Folder

S3 = "?endpoint_override=127.0.0.1:9&scheme=http"


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://sets"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(clients.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("form", ["path", "relative", "climbing", "slash", "file"])
def test_a_local_folder(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    uri = {
        "path": f"{tmp_path}/set",
        "relative": "in/set",
        "climbing": "../set",
        "slash": f"{tmp_path}/set/",
        "file": f"file://{tmp_path}/set%20a",
    }
    check_folder(Folder(uri[form]))


def test_a_file_system_of_fsspec_whose_folders_are_real(tmp_path: Path) -> None:
    check_folder(Folder(f"local://{tmp_path}/x/set"))


def test_a_bucket_that_is_not_there_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bucket(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("no such bucket")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", no_bucket)
    monkeypatch.setattr(MemoryFileSystem, "_strip_protocol", lambda path: str(path).removeprefix("memory://"))
    with pytest.raises(ResourceError, match=r"^cannot write memory://bucket/set/f \(no such bucket\)"):
        Folder("memory://bucket/set").write_bytes("f", b"1")
    assert MemoryFileSystem.pseudo_dirs == [""]


def test_a_relative_folder_follows_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Folder("set").write_bytes("a", name.encode())
    assert [(tmp_path / name / "set" / "a").read_text() for name in ("x", "y")] == ["x", "y"]


def test_a_folder_that_only_fsspec_knows(memory: str) -> None:
    check_folder(Folder(f"{memory}/one"))
    check_folder(Folder(f"{memory}/what? a name"))


def test_a_set_that_only_fsspec_knows(memory: str) -> None:
    read = write_random_set(f"{memory}/set", 10, 4).read()
    assert (read.images == make_images(10, make_info())).all()


@pytest.mark.parametrize(
    ("uri", "name", "file", "below", "safe"),
    [
        ("sets", "sets", "sets/f", "sets/b c", "sets"),
        ("/a/what?", "what?", "/a/what?/f", "/a/what?/b c", "/a/what?"),
        ("/a/b/", "b", "/a/b/f", "/a/b/b c", "/a/b/"),
        ("/a:b@c/d", "d", "/a:b@c/d/f", "/a:b@c/d/b c", "/a:b@c/d"),
        ("file:///a", "a", "file:///a/f", "file:///a/b%20c", "file:///a"),
        ("s3://b", "b", "s3://b/f", "s3://b/b%20c", "s3://b"),
        (f"s3://b/p/{S3}", "p", f"s3://b/p/f{S3}", f"s3://b/p/b%20c{S3}", f"s3://b/p/{S3}"),
        ("s3://b/p?scheme=http", "p", "s3://b/p/f?scheme=http", "s3://b/p/b%20c?scheme=http", "s3://b/p?scheme=http"),
        ("s3://K:S3C/RET@b/p", "p", "s3://K:***@b/p/f", "s3://K:S3C/RET@b/p/b%20c", "s3://K:***@b/p"),
        ("s3://K:S3CRET@b", "K:***@b", "s3://K:***@b/f", "s3://K:S3CRET@b/b%20c", "s3://K:***@b"),
        ("ftp://me:S3CRET@h/p", "p", "ftp://me:***@h/p/f", "ftp://me:S3CRET@h/p/b c", "ftp://me:***@h/p"),
        ("abfs://:S3CRET@h/p", "p", "abfs://:***@h/p/f", "abfs://:S3CRET@h/p/b%20c", "abfs://:***@h/p"),
        (
            "abfs://c@h/p?client_secret=S3CRET&tenant_id=7",
            "p",
            "abfs://c@h/p/f?client_secret=***&tenant_id=7",
            "abfs://c@h/p/b%20c?client_secret=S3CRET&tenant_id=7",
            "abfs://c@h/p?client_secret=***&tenant_id=7",
        ),
        ("hdfs://h:8020/a@b", "a@b", "hdfs://h:8020/a@b/f", "hdfs://h:8020/a@b/b%20c", "hdfs://h:8020/a@b"),
        ("memory://a/what?", "what?", "memory://a/what?/f", "memory://a/what?/b c", "memory://a/what?"),
    ],
)
def test_names_go_before_the_query_and_secrets_are_not_shown(
    uri: str, name: str, file: str, below: str, safe: str
) -> None:
    folder = Folder(uri)
    assert folder.name == name
    assert folder.join("f") == file
    assert folder.subfolder("b c") == Folder(below)
    assert folder.safe_uri == safe
    assert repr(folder) == str(folder) == f"Folder({safe!r})"
    assert folder == pickle.loads(pickle.dumps(folder))  # noqa: S301


OPENING = r" is no path or URI that pyarrow or fsspec can open "


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "gopher://me:S3CRET@h/x",
            rf"^gopher://me:\*\*\*@h/x{OPENING}\(Protocol not known: gopher\); check its scheme\.$",
        ),
        ("hole://me:S3CRET@h/x", r"^hole://me:\*\*\*@h/x needs a package that is missing \(dig first\); install it on"),
        ("s3://K:S3C RET@b/x", rf"^s3://K:\*\*\*@b/x{OPENING}\(Cannot parse URI: 's3://K:\*\*\*@b/x' due to"),
        (
            "s3://b/x?endpoint=h",
            rf"{OPENING}\(Unexpected query parameter in S3 URI: 'endpoint'\); check how it is spelled",
        ),
        ("s3:///x", rf"{OPENING}\(Missing bucket name in S3 URI\)"),
        ("s3://", rf"^s3://{OPENING}\(it names no folder\)"),
        ("file://here/x", rf"{OPENING}\(Unsupported hostname in non-Windows local URI"),
    ],
)
def test_what_cannot_be_opened_is_named_without_its_secret(
    uri: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(known_implementations, "hole", {"class": "no_such_package.A", "err": "dig first"})
    for use in (Folder.exists, Folder.list, lambda folder: folder.write_bytes("f", b"")):
        with pytest.raises(ImageSetError, match=message) as caught:
            use(Folder(uri))
        assert "S3C" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_client_is_made_once() -> None:
    first, second = (Folder(f"s3://b/{name}{S3}") for name in "ab")
    assert clients.open_uri(first.uri)[0] is clients.open_uri(Folder(first.uri).uri)[0]
    assert clients.open_uri(first.uri)[1] != clients.open_uri(second.uri)[1]


def test_stores_get_our_limits_and_keep_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(filesystem: Any) -> dict[str, Any]:
        return filesystem.__reduce__()[1][0]

    for uri, ours in (
        (
            f"s3://K:S@b/x{S3}&region=mars&allow_delayed_open=true&allow_bucket_creation=true",
            {"request_timeout": 10.0, "connect_timeout": 5.0, "allow_delayed_open": False, "background_writes": True},
        ),
        (f"gs://anonymous@b/x{S3}", {"retry_time_limit": clients.timedelta(seconds=30)}),
    ):
        filesystem, root = clients.open_uri(uri)
        assert root == "b/x"
        assert options(filesystem) == {**options(fs.FileSystem.from_uri(uri)[0]), **ours}


@pytest.mark.parametrize(("variable", "other"), [("AWS_ENDPOINT_URL", ""), ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")])
def test_the_server_comes_from_the_environment(variable: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if other:
        monkeypatch.setenv(other, "http://127.0.0.1:8")
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    filesystem, _ = clients.open_uri(f"s3://from-{variable}/x".replace("_", "-").lower())
    assert filesystem.__reduce__()[1][0]["endpoint_override"] == "http://127.0.0.1:9"


class Work:
    """Fails so many times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


REMOTE = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))


@pytest.mark.parametrize("times", range(6))
def test_what_fails_for_a_while_is_tried_again_later_and_later(times: int, waits: list[float]) -> None:
    state = random.getstate()
    work = Work(times, OSError("When uploading: AWS Error SLOW_DOWN during PutObject operation"))
    if times < 5:
        assert clients.persist(work, REMOTE) == "done"
    else:
        with pytest.raises(OSError, match="SLOW_DOWN"):
            clients.persist(work, REMOTE)
    assert work.calls == min(times + 1, 5)
    longest = [0.2, 0.6, 1.8, 5.0][:times]
    assert len(waits) == len(longest)
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, longest, strict=True))
    assert random.getstate() == state


@pytest.mark.parametrize(
    "error",
    [
        OSError("When listing: AWS Error ACCESS_DENIED during ListObjectsV2 operation: no"),
        OSError("When initiating: AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: it does not exist"),
        OSError("AWS Error INVALID_ACCESS_KEY_ID during"),
        OSError("AWS Error SIGNATURE_DOES_NOT_MATCH during"),
        OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."),
        OSError("google::cloud::Status(PERMISSION_DENIED: no"),
        FileNotFoundError("x"),
        PermissionError("x"),
        IsADirectoryError("x"),
        KeyError("no OSError at all"),
    ],
)
def test_what_will_fail_again_is_not_tried_again(error: Exception, waits: list[float]) -> None:
    work = Work(1, error)
    with pytest.raises(type(error)):
        clients.persist(work, REMOTE)
    assert (work.calls, waits) == (1, [])


@pytest.mark.parametrize(
    "text",
    [
        "for key 'ACCESS_DENIED/INVALID_': AWS Error INTERNAL_FAILURE",
        "AWS Error UNKNOWN (HTTP status 429)",
        "AWS Error UNKNOWN (HTTP status 408)",
        "AWS Error UNKNOWN (HTTP status 503)",
        "AWS Error NETWORK_CONNECTION",
        "AWS Error NO_SUCH_UPLOAD",  # the answer to its completion was lost
        "google::cloud::Status(UNAVAILABLE:",
    ],
)
def test_what_may_pass_is_tried_again(text: str, waits: list[float]) -> None:
    assert clients.persist(Work(4, OSError(text)), REMOTE) == "done"


def test_a_local_disk_is_not_asked_again(waits: list[float]) -> None:
    work = Work(1, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        clients.persist(work, fs.LocalFileSystem())
    assert (work.calls, waits) == (1, [])


def test_reading_listing_and_deleting_are_tried_again(
    memory: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(f"{memory}/set")
    folder.write_bytes("f", b"1")
    for method, use, result in (
        ("open", lambda: folder.read_bytes("f"), b"1"),
        ("info", lambda: folder.exists("f"), True),
        ("find", lambda: folder.list(), {"f": 1}),
        ("rm", lambda: folder.delete("f"), None),
    ):
        work, right = Work(4, OSError("AWS Error SLOW_DOWN")), getattr(MemoryFileSystem, method)

        def fail_at_first(*arguments: Any, work: Work = work, right: Any = right, **options: Any) -> Any:
            work()
            return right(*arguments, **options)

        monkeypatch.setattr(MemoryFileSystem, method, fail_at_first)
        assert use() == result
        assert work.calls >= 5


def test_failures_of_a_store_say_what_to_do(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("not you")

    folder, remedy = (
        Folder(f"{memory}/set"),
        r" \(not you\); check its address, the network and your access to it, then",
    )
    folder.write_bytes("f", b"1")
    for method, use, message in (
        ("pipe_file", lambda: folder.write_bytes("f", b"2"), "cannot write memory://sets/set/f"),
        ("rm", lambda: folder.delete("f"), "cannot delete memory://sets/set/f"),
        ("rm", lambda: folder.delete_folder(), "cannot delete memory://sets/set"),
        ("find", lambda: folder.list(), "cannot list memory://sets/set"),
        ("info", lambda: folder.exists("f"), "cannot look for memory://sets/set/f"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, method, refuse)
            with pytest.raises(ResourceError, match=f"^{message}{remedy}"):
                use()
    assert folder.read_bytes("f") == b"1"


def test_an_fsspec_file_that_fails_in_the_middle_is_not_seen(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(f"{memory}/set")
    folder.write_bytes("f", b"old")

    def write_half(file: MemoryFile, data: bytes) -> int:
        super(MemoryFile, file).write(bytes(data)[: len(data) // 2])
        raise PermissionError("no more")

    monkeypatch.setattr(MemoryFile, "write", write_half)
    folder.write_bytes("f", b"new")  # in one call
    assert folder.read_bytes("f") == b"new"


def test_only_what_killed_writers_left_is_swept(tmp_path: Path, memory: str) -> None:
    folder = Folder(str(tmp_path / "set"))
    folder.sweep()
    folder.write_bytes("f", b"1")
    (tmp_path / "set" / f"f.1234{PARTIAL_SUFFIX}").touch()
    assert set(folder.files()) == {"f", f"f.1234{PARTIAL_SUFFIX}"}
    assert folder.list() == {"f": 1}
    folder.sweep()
    assert set(folder.files()) == {"f"}
    Folder(memory).sweep()


def test_a_file_that_is_swept_while_it_is_written_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fsync = Folder(str(tmp_path / "set")), os.fsync

    def sweep_once(descriptor: int) -> None:
        fsync(descriptor)
        monkeypatch.setattr(os, "fsync", fsync)
        folder.sweep()

    monkeypatch.setattr(os, "fsync", sweep_once)
    folder.write_bytes("f", b"1")
    assert folder.files() == {"f": 1}
    assert folder.read_bytes("f") == b"1"


def test_a_file_holds_no_files(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert Folder(str(tmp_path / "f")).files(below=True) == {}
