"""Published files: checked against their checksum, downloaded with a resume, and unpacked whole or not at all."""

import hashlib
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from published_samples import write_tar
from torchvision import datasets

from sio_ray.datasets import cifar, dtd, fashion_mnist, mnist, places365, published, svhn
from sio_ray.datasets.published import PublishedFile, extracted, find
from sio_ray.errors import ImageSetError, ResourceError

DATA = bytes(range(256)) * 12_000  # 3 MB


class Server(ThreadingHTTPServer):
    """Serves DATA, whatever is asked for.

    Attributes:
        ranges: what was asked for, one header after the other.
        knows_ranges: else it always sends everything.
        breaks_after: bytes after which a connection breaks.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.knows_ranges, self.breaks_after, self.data = [], True, None, DATA
        self.file = PublishedFile(f"http://127.0.0.1:{self.server_port}/a.bin", hashlib.md5(DATA).hexdigest())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.knows_ranges else 0
        if start >= len(self.server.data):
            self.send_error(416)
            return
        body = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_that_is_there_is_used_without_any_network(tmp_path, server):
    (tmp_path / "a.bin").write_bytes(DATA)
    assert find(server.file, tmp_path, download=True) == tmp_path / "a.bin"
    assert server.ranges == []


def test_a_missing_file_is_named_with_its_address_and_its_place(tmp_path):
    file = PublishedFile("http://example.org/b/a.bin", "0")
    with pytest.raises(ImageSetError) as error:
        find(file, tmp_path, download=False)
    assert str(error.value) == (
        f"{tmp_path}/a.bin is missing; set prepare.download=true, or fetch http://example.org/b/a.bin yourself and put "
        "it there."
    )


@pytest.mark.parametrize("is_known_otherwise", [True, False])
def test_other_bytes_are_refused_unless_they_are_known_too(tmp_path, server, is_known_otherwise):
    (tmp_path / "a.bin").write_bytes(b"other")
    md5 = hashlib.md5(b"other").hexdigest()
    file = PublishedFile(server.file.url, server.file.md5, (md5,) if is_known_otherwise else ())
    if is_known_otherwise:
        assert find(file, tmp_path, download=False).read_bytes() == b"other"
        return
    with pytest.raises(ImageSetError, match=rf"a\.bin is not the file that was published \(its MD5 is {md5}, not "):
        find(file, tmp_path, download=True)
    assert (tmp_path / "a.bin").read_bytes() == b"other"  # it may be dear to somebody


def test_a_download_is_whole_and_leaves_nothing_beside_it(tmp_path, server):
    assert find(server.file, tmp_path / "new", download=True).read_bytes() == DATA
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path, server):
    (tmp_path / "a.bin.partial").write_bytes(DATA[:1_000_001])
    assert find(server.file, tmp_path, download=True).read_bytes() == DATA
    assert server.ranges == ["bytes=1000001-"]


def test_a_connection_that_breaks_is_taken_up_again(tmp_path, server):
    server.breaks_after = 1_300_000
    assert find(server.file, tmp_path, download=True).read_bytes() == DATA
    assert server.ranges == [None, "bytes=1300000-", "bytes=2600000-"]


def test_a_server_that_cannot_resume_sends_all_again(tmp_path, server):
    (tmp_path / "a.bin.partial").write_bytes(DATA[:1000])
    server.knows_ranges = False
    assert find(server.file, tmp_path, download=True).read_bytes() == DATA


def test_a_download_that_was_complete_is_not_fetched_again(tmp_path, server):
    (tmp_path / "a.bin.partial").write_bytes(DATA)
    assert find(server.file, tmp_path, download=True).read_bytes() == DATA


def test_a_server_that_sends_nothing_more_is_given_up(tmp_path, server):
    server.breaks_after = 0
    with pytest.raises(
        ResourceError, match=r"a\.bin cannot be downloaded \(the server sends nothing more\); run again"
    ):
        find(server.file, tmp_path, download=True)


def test_wrong_bytes_are_thrown_away(tmp_path, server):
    server.data = DATA[::-1]
    with pytest.raises(ResourceError, match=rf"^{server.file.url} gave other bytes than were published \(MD5\); run"):
        find(server.file, tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_message_says_what_goes_where(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/a.bin"
    with pytest.raises(ResourceError) as error:
        find(PublishedFile(url, "0"), tmp_path, download=True)
    assert str(error.value) == (
        f"{url} cannot be downloaded ([Errno 111] Connection refused); run again to continue, or fetch it where there "
        f"is a network and put it at {tmp_path}/a.bin."
    )


def archive(tmp_path, members):
    path = tmp_path / "a.tar.gz"
    write_tar(path, members)
    return PublishedFile("http://example.org/a.tar.gz", hashlib.md5(path.read_bytes()).hexdigest())


def test_an_archive_is_unpacked_once(tmp_path):
    file = archive(tmp_path, {"pictures/a.jpg": b"1", "other/b.jpg": b"2"})
    folder = extracted(file, tmp_path, "pictures", download=False)
    assert (folder / "a.jpg").read_bytes() == b"1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "pictures"]
    (tmp_path / "a.tar.gz").unlink()
    assert extracted(file, tmp_path, "pictures", download=False) == folder


@pytest.mark.parametrize("member", ["../outside.jpg", "/tmp/outside-of-the-archive.jpg", "other/a.jpg"])
def test_an_archive_that_leaves_its_folder_or_lacks_it_is_refused(tmp_path, member):
    file = archive(tmp_path, {member: b"1"})
    with pytest.raises(ImageSetError, match=r"a\.tar\.gz cannot be unpacked \(.*; delete it and fetch it again\.$"):
        extracted(file, tmp_path, "pictures", download=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    assert not (tmp_path.parent / "outside.jpg").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_other_things_in_an_archive_are_refused(tmp_path, kind):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as opened:
        member = tarfile.TarInfo("pictures/a.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        opened.addfile(member)
    file = PublishedFile("http://example.org/a.tar.gz", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(ImageSetError, match=r"a\.tar\.gz cannot be unpacked \(.*; delete it and fetch it again\.$"):
        extracted(file, tmp_path, "pictures", download=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_addresses_and_checksums_are_those_of_torchvision():
    ours = {(file.name, file.md5) for file in mnist.FILES.values()}
    assert ours <= set(datasets.MNIST.resources)
    assert all(file.url == datasets.MNIST.mirrors[0] + file.name for file in mnist.FILES.values())
    clothes = [file for files in fashion_mnist.FILES.values() for file in files]
    assert {(file.name, file.md5) for file in clothes} == set(datasets.FashionMNIST.resources)
    assert all(file.url == datasets.FashionMNIST.mirrors[0] + file.name for file in clothes)
    assert (svhn.FILE.url, svhn.FILE.md5) == tuple(datasets.SVHN.split_list["test"][::2])
    assert (dtd.FILE.url, dtd.FILE.md5) == (datasets.DTD._URL, datasets.DTD._MD5)
    assert (places365.FILE.name, places365.FILE.md5) == datasets.Places365._IMAGES_META["val", True]
    assert places365.FILE.url.startswith(datasets.Places365._BASE_URL)
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        assert cifar.ARCHIVES[name].file.url == theirs.url.replace("python", "binary")


def test_the_download_is_told_how_often_to_try(tmp_path, server, monkeypatch):
    monkeypatch.setattr(published, "_MAX_TRIES", 2)
    server.breaks_after = 1000
    with pytest.raises(ResourceError, match=r"\(the connection broke 2 times\)"):
        find(server.file, tmp_path, download=True)
    assert (tmp_path / "a.bin.partial").stat().st_size == 2000  # kept for the next run
