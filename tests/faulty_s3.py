"""An object store that fails on purpose: moto's S3 server behind a proxy that refuses, cuts, delays and hangs."""

from __future__ import annotations

import contextlib
import http.client
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from moto.server import ThreadedMotoServer

#: What may be done to a request. `refuse`, `deny`: 503 or 403 is answered and the store not asked; `lose_answer`: the
#: store does its work, 500 is answered; `cut_upload`, `cut_download`: the connection ends after half of the body;
#: `delay`: two tenths of a second are lost; `hang`: there is no answer, ever.
Fault = Literal["refuse", "deny", "lose_answer", "cut_upload", "cut_download", "delay", "hang"]

_ANSWERS = {"refuse": (503, "SlowDown"), "deny": (403, "AccessDenied"), "lose_answer": (500, "InternalError")}


@dataclass(frozen=True)
class Request:
    """What a rule may look at: `index` counts the requests of one proxy."""

    index: int
    method: str
    path: str


#: Moto asks nobody who he is, but the client wants to know.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

_HOP_BY_HOP = ("content-length", "transfer-encoding", "connection")

#: Which fault a request meets, if any.
Rule = Callable[[Request], Fault | None]


def no_fault(request: Request) -> Fault | None:
    """A store in good health."""
    return None


def seeded(seed: int, share: float, *faults: Fault) -> Rule:
    """Give every request one of the faults with a probability, by its number alone."""

    def rule(request: Request) -> Fault | None:
        dice = random.Random(f"{seed}-{request.index}")
        return dice.choice(faults) if dice.random() < share else None

    return rule


@dataclass
class FaultyStore:
    """A running store; set `rule` at any time.

    Attributes:
        address: host:port of the proxy.
        direct: host:port of the store behind it.
        rule: which requests fail, and how.
        seen: every request so far with the fault it met.
    """

    address: str
    direct: str
    rule: Rule = no_fault
    seen: list[tuple[Request, Fault | None]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def uri(self, path: str, *, direct: bool = False) -> str:
        """The URI of `bucket/prefix`, through the proxy or past it."""
        return f"s3://{path}?scheme=http&endpoint_override={self.direct if direct else self.address}"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask the store behind the proxy: status, headers and body of its answer."""
        with contextlib.closing(http.client.HTTPConnection(self.direct, timeout=30)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def sizes(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Key to size of every object that begins so, as the store itself has them."""
        _, _, data = self.ask("GET", f"/{bucket}?list-type=2&prefix={prefix}")
        found = re.findall(r"<Key>(.*?)</Key>.*?<Size>(\d+)</Size>", data.decode(), re.DOTALL)
        return {key: int(size) for key, size in found}

    def meet(self, method: str, path: str) -> Fault | None:
        """Count a request and say what happens to it."""
        with self._lock:
            request = Request(len(self.seen), method, path)
            fault = self.rule(request)
            self.seen.append((request, fault))
        return fault


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: FaultyStore

    def _forward(self) -> None:
        fault = self.store.meet(self.command, self.path)
        if fault == "hang":
            self.store.closing.wait()
            return self._cut()
        if fault == "delay":
            time.sleep(0.2)
        if fault == "cut_upload" and self.command in ("PUT", "POST"):
            self.rfile.read(self._next_size() // 2)
            return self._cut()
        body = self._body()
        if fault not in ("refuse", "deny"):
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            status, headers, data = self.store.ask(self.command, self.path, body, headers)
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            headers = {"Content-Type": "application/xml"}
            data = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        return self._answer(status, headers, data, cut=fault == "cut_download")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

    def _next_size(self) -> int:
        """Bytes of the body, or of its next chunk."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            return int(self.rfile.readline(), 16)
        return int(self.headers.get("Content-Length", 0))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(self._next_size())
        chunks = []
        while size := self._next_size():
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _answer(self, status: int, headers: dict[str, str], data: bytes, *, cut: bool) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        # The answer to HEAD tells the size of a body that it does not have.
        of_head = self.command == "HEAD" and headers.get("Content-Length")
        self.send_header("Content-Length", of_head or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of the game."""


@contextlib.contextmanager
def faulty_store(*buckets: str) -> Iterator[FaultyStore]:
    """Run a store with these buckets on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    server = _Server(("127.0.0.1", 0), _Proxy)
    store = FaultyStore(address=f"127.0.0.1:{server.server_port}", direct=f"{host}:{port}")
    server.RequestHandlerClass = type("Handler", (_Proxy,), {"store": store})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for bucket in buckets:
            assert store.ask("PUT", f"/{bucket}")[0] == 200
        yield store
    finally:
        store.closing.set()
        server.shutdown()
        server.server_close()
        moto.stop()
