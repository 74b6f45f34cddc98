"""A flaky object store costs nothing: what was written is whole or absent, and is read back bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from faulty_s3 import CREDENTIALS, Fault, FaultyStore, faulty_store, no_fault, seeded
from folder_laws import check_folder
from imageset_samples import make_images, make_info, make_labels

from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset import ImageSet, clients, write_image_set
from sio_ray.imageset.storage import Folder

#: pyarrow sends a file in parts of 10 MB; this has two.
BIG = np.random.default_rng(0).bytes(12_000_000)
PASSING: tuple[Fault, ...] = ("refuse", "lose_answer", "cut_upload", "cut_download")


@pytest.fixture(scope="module")
def running_store() -> Iterator[FaultyStore]:
    with faulty_store("bucket") as store:
        yield store


@pytest.fixture
def store(running_store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A store in good health, and clients that try each request once and do not wait."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(clients, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(clients, "LONGEST_WAIT_S", 0.001)
    monkeypatch.setattr(clients, "S3_REQUEST_ATTEMPTS", 1)
    running_store.seen.clear()
    yield running_store
    running_store.rule = no_fault
    clients.open_uri.cache_clear()


INFO = make_info((3, 33, 31))
IMAGES, LABELS = make_images(12, INFO), make_labels(12, INFO)


def write_and_read_back(uri: str) -> None:
    manifest = write_image_set(uri, INFO, IMAGES, LABELS, images_per_shard=8)
    image_set = ImageSet(uri)
    assert image_set.manifest == manifest
    read = image_set.read()
    assert np.array_equal(read.images, IMAGES)
    assert np.array_equal(read.labels, LABELS)
    assert np.array_equal(read.image_ids, np.arange(12))


def test_a_bucket_is_a_folder_like_any_other(store: FaultyStore) -> None:
    check_folder(Folder(store.uri("bucket/laws")))
    check_folder(Folder(store.uri("bucket/laws/slash/")))
    secret = store.uri("me:S3CRET@bucket/laws/secret")
    check_folder(Folder(secret))


def test_writing_makes_objects_and_nothing_else(store: FaultyStore) -> None:
    folder = Folder(store.uri("bucket/objects"))
    folder.subfolder("a/b").write_bytes("f", b"1")
    folder.write_bytes("g", BIG)
    assert store.sizes("bucket", "objects") == {"objects/a/b/f": 1, "objects/g": len(BIG)}
    assert folder.read_bytes("g") == BIG


def test_the_server_of_the_environment_is_asked(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{store.address}")
    write_and_read_back("s3://bucket/environment")
    assert "environment/manifest.json" in store.sizes("bucket", "environment")


@pytest.mark.parametrize("fault", PASSING)
def test_any_one_request_may_fail(fault: Fault, store: FaultyStore) -> None:
    write_and_read_back(store.uri(f"bucket/one-{fault}"))
    num_requests = len(store.seen)
    expected = sorted(store.sizes("bucket", f"one-{fault}").values())
    for k in range(num_requests):
        store.seen.clear()
        store.rule = lambda request, k=k: fault if request.index == k else None
        write_and_read_back(store.uri(f"bucket/one-{fault}-{k}"))
        assert sorted(store.sizes("bucket", f"one-{fault}-{k}/").values()) == expected


@pytest.mark.parametrize("seed", range(3))
def test_a_third_of_all_requests_may_fail(seed: int, store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "NUM_ATTEMPTS", 40)  # as only one in three writes of three requests comes through
    store.rule = seeded(seed, 0.3, *PASSING, "delay")
    write_and_read_back(store.uri(f"bucket/third-{seed}"))
    assert sum(fault is not None for _, fault in store.seen) > 2


def test_the_s3_client_asks_again_too(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "S3_REQUEST_ATTEMPTS", 2)
    monkeypatch.setattr(clients, "NUM_ATTEMPTS", 1)
    store.rule = lambda request: "refuse" if request.index == 0 else None
    Folder(store.uri("bucket/twice")).write_bytes("f", b"1")
    assert [fault for _, fault in store.seen][:2] == ["refuse", None]


@pytest.mark.parametrize(
    ("fault", "then", "uri_options"),
    [
        ("refuse", "healthy", ""),
        ("refuse", "dead", ""),
        ("refuse", "healthy", "&allow_delayed_open=true"),
        ("lose_answer", "healthy", ""),
        ("cut_upload", "dead", ""),
    ],
)
def test_an_upload_that_fails_anywhere_leaves_the_old_object_or_the_new_one(
    fault: Fault, then: str, uri_options: str, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "NUM_ATTEMPTS", 1)
    key = f"middle-{fault}-{then}-{len(uri_options)}"
    folder = Folder(store.uri(f"bucket/{key}") + uri_options)
    for old in ({}, {f"{key}/f": 3}):
        if old:
            folder.write_bytes("f", b"old")
        failed = set()
        for k in range(4):  # begin, two parts, complete
            store.seen.clear()
            store.rule = lambda request, k=k: (
                fault if request.index == k or (then == "dead" and request.index > k) else None
            )
            try:
                folder.write_bytes("f", BIG)
            except ResourceError:
                failed.add(k)
            store.rule = no_fault
            sizes = store.sizes("bucket", key + "/")
            assert sizes in (old, {f"{key}/f": len(BIG)})
            if sizes != old:
                old = {f"{key}/f": 3}
                folder.write_bytes("f", b"old")
        assert failed == {0, 1, 2, 3}


def test_a_store_that_always_fails_is_named_in_bounded_time(store: FaultyStore) -> None:
    uri = store.uri("me:S3CRET@bucket/dead")
    shard = r"s3://me:\*\*\*@bucket/dead/part-00000-of-00002\.parquet\?scheme=http&endpoint_override=127\.0\.0\.1:\d+"
    store.rule = lambda request: "refuse" if "part-" in request.path else None
    with pytest.raises(ResourceError, match=rf"^cannot write {shard} \(.*SLOW_DOWN.*\); check its address") as caught:
        write_image_set(uri, INFO, IMAGES, LABELS, images_per_shard=8)
    assert "S3CRET" not in str(caught.value)
    assert sum(request.method == "POST" for request, _ in store.seen) == clients.NUM_ATTEMPTS
    assert store.sizes("bucket", "dead/") == {}
    store.rule = lambda request: "refuse"
    with pytest.raises(ImageSetError, match=r"^image set .* cannot be read \(.*HTTP status 503"):
        ImageSet(uri)


def test_a_store_that_dies_on_the_way_leaves_no_manifest_and_a_rerun_completes_the_set(store: FaultyStore) -> None:
    uri = store.uri("bucket/dies")
    store.rule = lambda request: "refuse" if "part-00001" in request.path else None
    with pytest.raises(ResourceError, match="part-00001-of-00002"):
        write_image_set(uri, INFO, IMAGES, LABELS, images_per_shard=8)
    assert list(store.sizes("bucket", "dies/")) == ["dies/part-00000-of-00002.parquet"]
    with pytest.raises(ImageSetError, match="is unfinished"):
        ImageSet(uri)
    store.rule = no_fault
    write_and_read_back(uri)


@pytest.mark.parametrize(
    ("bucket", "fault", "message"),
    [
        ("nowhere", None, r"^cannot write s3://nowhere/set/f\?.*NO_SUCH_BUCKET.*The specified bucket does not exist"),
        ("bucket", "deny", r"^cannot write s3://bucket/set/f\?.*ACCESS_DENIED"),
    ],
)
def test_what_waiting_cannot_mend_is_said_at_once(
    bucket: str, fault: Fault | None, message: str, store: FaultyStore
) -> None:
    store.rule = lambda request: fault
    with pytest.raises(ResourceError, match=message):
        Folder(store.uri(f"{bucket}/set")).write_bytes("f", b"1")
    assert len(store.seen) == 1


def test_a_server_that_never_answers_is_given_up(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "S3_SILENCE_S", 1.0)
    monkeypatch.setattr(clients, "NUM_ATTEMPTS", 2)
    folder = Folder(store.uri("bucket/hangs"))
    store.rule = lambda request: "hang"
    begin_s = time.monotonic()
    with pytest.raises(ResourceError, match=r"cannot write s3://bucket/hangs/f\?.*Less than 1 bytes/sec"):
        folder.write_bytes("f", b"1")
    assert 2 <= time.monotonic() - begin_s < 6
    assert len(store.seen) == 2


def test_a_process_that_used_s3_ends_by_itself(store: FaultyStore) -> None:
    program = f"""
from sio_ray.imageset.storage import Folder
folder = Folder({store.uri("bucket/ends")!r})
folder.write_bytes("f", b"1")
assert folder.read_bytes("f") == b"1"
raise SystemExit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, env=os.environ, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
