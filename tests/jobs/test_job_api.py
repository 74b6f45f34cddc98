"""Whatever is wrong with an address or a token is one line that says so, before anything is sent there."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from sio_ray.cli import main
from sio_ray.errors import ConfigError, JobError
from sio_ray.jobs import client as module
from sio_ray.jobs.client import connect, find_address, one_line_errors

REMEDY = "give the address of the head's dashboard, such as http://HEAD:8265."

Serve = Callable[[int, str], str]


@pytest.fixture
def asked() -> list[tuple[str, str, str | None]]:
    """Method, path and token of every request."""
    return []


@pytest.fixture
def serve(asked: list[tuple[str, str, str | None]]) -> Iterator[Serve]:
    """Starts a server that answers everything alike; gives its address."""
    servers = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked.append((self.command, self.path, self.headers.get("Authorization")))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_PUT = do_POST = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def raw() -> Iterator[Callable[[bytes], str]]:
    """Starts a server that says something to whoever connects, or nothing; gives its address."""
    sockets = []

    def start(words: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def speak() -> None:
            connection, _ = server.accept()
            sockets.append(connection)
            if words:
                connection.recv(65536)
                connection.sendall(words)
                connection.close()

        threading.Thread(target=speak, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for each in sockets:
        each.close()


def refusal(address: str) -> str:
    with pytest.raises(JobError) as error:
        connect(address)
    assert "\n" not in str(error.value)
    return str(error.value)


def version(ray_version: str) -> str:
    return json.dumps({"version": "4", "ray_version": ray_version, "ray_commit": "c"})


def test_where_nothing_listens_or_nobody_answers(raw: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert refusal(address) == f"nothing answers at {address} (Connection refused); {REMEDY}"
    monkeypatch.setattr(module, "_FIRST_ANSWER_S", 0.2)
    address = raw(b"")
    assert refusal(address) == f"nothing answers at {address} (timed out); {REMEDY}"


def test_what_is_no_dashboard(serve: Serve, raw: Callable[[bytes], str]) -> None:
    address = raw(b"SSH-2.0-OpenSSH_9.6\r\n")
    assert refusal(address) == f"what answers at {address} is no Ray dashboard (it speaks otherwise); {REMEDY}"
    for body in ("<html>hello</html>", "[1]", "{}", "[" * 100_000):
        address = serve(200, body)
        assert refusal(address) == f"what answers at {address} is no Ray dashboard (it speaks otherwise); {REMEDY}"
    address = serve(404, "")
    assert refusal(address) == f"what answers at {address} is no Ray dashboard (status 404); {REMEDY}"


def test_a_token_that_is_missing_or_wrong(serve: Serve, asked: list[tuple[str, str, str | None]]) -> None:
    address = serve(401, "Unauthorized: Missing authentication token")
    assert refusal(address) == (
        f"the Ray cluster at {address} asks for a token and none was sent, as RAY_AUTH_MODE is disabled; set "
        "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=/file/that/holds/it, or have it in ~/.ray/auth_token."
    )
    address = serve(403, "Forbidden: Invalid authentication token")
    assert refusal(address) == (
        f"the Ray cluster at {address} refuses this token; set RAY_AUTH_TOKEN_PATH=/file/that/holds/it, or have it in "
        "~/.ray/auth_token: it must be the one that the head was given."
    )
    assert {request[:2] for request in asked} == {("GET", "/api/version")}


def test_a_secret_in_an_address_is_not_said(serve: Serve) -> None:
    address = serve(404, "").replace("http://", "http://me:hushhush@")
    told = refusal(address)
    assert "hushhush" not in told
    assert "http://me:***@127.0.0.1" in told


def test_a_ray_that_is_too_old_is_refused_and_another_one_is_warned_of(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    address = serve(200, version("2.9.3"))
    assert refusal(address) == (
        f"the cluster at {address} must run Ray 2.60 or newer, it runs 2.9.3; update its image, here is "
        f"{ray.__version__}."
    )
    connect(serve(200, version("2.99.1")))
    assert capsys.readouterr().err == f"warning: the cluster runs Ray 2.99.1, here is {ray.__version__}\n"
    connect(serve(200, version(ray.__version__)))
    assert capsys.readouterr().err == ""


def test_nothing_is_sent_where_anything_is_wrong(
    serve: Serve, asked: list[tuple[str, str, str | None]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["submit", *arguments])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    where = ["--address", serve(200, version(ray.__version__))]
    shared = f"output_dir={tmp_path}"
    assert told("trian", "digits", shared, *where) == (
        "error: STAGE must be among prepare, fit-generator, generate, train, evaluate, tune, report and run, got "
        "'trian'; did you mean train."
    )
    assert told("train", "digits", shared, "train.real_weight=80", *where).startswith("error: train.real_weight must")
    assert told("train", "digits", *where).startswith("error: output_dir must be an absolute path or a URI for a job")
    assert told("train", "digits", shared, "--id", "a b", *where).startswith("error: --id must be letters")
    assert told("train", "digits", shared, "--env", "NO_SUCH_VARIABLE", *where) == (
        "error: --env must be a variable that is set here, or NAME=VALUE, got 'NO_SUCH_VARIABLE'; "
        "export NO_SUCH_VARIABLE first."
    )
    assert told("train", "digits", shared, "--env", "1NAME=hushhush", *where) == (
        "error: --env must be NAME or NAME=VALUE, got '1NAME'; give the name of an environment variable."
    )
    assert asked == []
    assert told("train", "digits", shared, "train.synthetic_ratio=3", *where).startswith(
        "error: train.synthetic_ratio must be at most generate.synthetic_ratio (1), got 3.0"
    )
    assert told("train", "digits", shared, "--address", serve(401, "Unauthorized")).startswith("error: the Ray cluster")
    assert {request[0] for request in asked} == {"GET"}
    assert list(tmp_path.iterdir()) == []


def test_the_address_is_what_is_given_else_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    form = re.escape("--address must be http://HEAD:8265, or https://..., of the cluster's dashboard")
    with pytest.raises(ConfigError, match=rf"^{form}, got None; give it, or set RAY_API_SERVER_ADDRESS\.$"):
        find_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=rf"^{form} \(from the environment, .*\), got '10\.0\.0\.1:6379'; 8265 is"):
        find_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert find_address(None) == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://gateway/ray/")
    assert find_address(None) == "https://gateway/ray"
    assert find_address("http://other:8265") == "http://other:8265"
    for wrong in ("head:8265", "ray://head:10001", "auto", "http://", "http://head:port", "http://head:99999"):
        with pytest.raises(ConfigError, match=rf"^{form}, got {re.escape(repr(wrong))}; 8265 is the port"):
            find_address(wrong)


def test_an_address_that_is_given_wins_over_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    address = serve(200, version(ray.__version__))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert connect(address).get_address() == address
    assert find_address(None) == "http://127.0.0.1:1"


def test_what_the_cluster_refuses_is_told_by_its_last_line() -> None:
    with pytest.raises(JobError) as error, one_line_errors("http://head:8265"):
        raise RuntimeError("Request failed with status code 400: Traceback:\n  File x\nValueError: id taken.\n.\n.")
    assert str(error.value) == "the Ray cluster at http://head:8265 refused: ValueError: id taken."
    with pytest.raises(JobError) as error, one_line_errors("https://head"):
        raise ConnectionError("Failed to connect") from None
    assert str(error.value) == (
        "cannot talk to the Ray dashboard at https://head: the connection broke; check that it still runs, and run the "
        "same command again."
    )


def test_a_certificate_that_is_not_trusted_is_told() -> None:
    def as_ray_does() -> None:
        try:
            raise ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate")
        except ssl.SSLCertVerificationError:
            raise ConnectionError("Failed to connect to Ray at address: https://head.")  # noqa: B904

    with pytest.raises(JobError) as error, one_line_errors("https://head"):
        as_ray_does()
    assert str(error.value) == (
        "cannot talk to the Ray dashboard at https://head: its certificate is not trusted; set REQUESTS_CA_BUNDLE to "
        "the file of its authority."
    )
