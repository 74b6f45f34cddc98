"""Jobs on a real cluster that asks for a token: submitted, followed, listed, stopped; by plain `ray job submit` too."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = ("prepare.images_per_ood_set=24", "prepare.num_outliers=24")


@dataclass(frozen=True)
class Head:
    """The cluster, as a shell sees it."""

    environment: dict[str, str]

    def start(self, *arguments: str, module: str = "sio_ray.cli", **changes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=self.environment | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **changes: str) -> tuple[int, str, str]:
        return ended(self.start(*arguments, **changes))


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def answers(address: str) -> bool:
    """Whether a dashboard is up, be it that it lets nobody in."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray's sockets lie in its folder, and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="sio-"))
    (folder / "token").write_text(secrets.token_hex(32))
    port, of_clients = free_ports(2)
    address = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_API_SERVER_ADDRESS": address,
        # Jobs run `python`.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }
    # Other clusters of this machine have Ray's usual ports; that of the agent, which starts jobs, is the same for all.
    ports = (f"--dashboard-port={port}", f"--ray-client-server-port={of_clients}", "--dashboard-agent-listen-port=0")
    options = (
        "--head",
        "--block",
        "--num-cpus=2",
        f"--temp-dir={folder}/ray",
        "--node-ip-address=127.0.0.1",
        "--port=0",
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *ports],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        deadline_s = time.monotonic() + 240
        while not answers(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline_s, (folder / "log").read_text()
            time.sleep(0.2)
        yield Head(environment)
    finally:
        process.terminate()
        process.wait(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def listed(head: Head) -> dict[str, dict[str, object]]:
    code, out, err = head.run("jobs", "ls", "--json")
    assert code == 0, err
    return {job["id"]: job for job in json.loads(out)}


def test_jobs_from_beginning_to_end(head: Head, tmp_path: Path) -> None:
    shared = f"output_dir={tmp_path}/runs"
    nightly = head.start("submit", "prepare", "digits", *SMALL, shared, "--id", "nightly", "--env", "SIO_TEST=hushhush")
    broken = head.start(
        *("submit", "prepare", "fashion_mnist", "prepare.root=/no/such/folder", shared, "--id", "broken", "--no-wait")
    )

    # What fails has its driver's exit code, and its log the reason; what `--no-wait` prints is the id alone.
    code, out, err = ended(broken)
    assert (code, out) == (0, "broken\n"), err
    plain = head.start(
        *("job", "submit", "--working-dir", str(ROOT), "--submission-id", "plain", "--"),
        *("python", "jobs/prepare.py", "digits", *SMALL, f"output_dir={tmp_path}/plain"),
        module="ray.scripts.scripts",
    )
    endless = head.start(
        *("job", "submit", "--no-wait", "--submission-id", "endless", "--"),
        *("bash", "-c", "for i in $(seq 9999); do echo step $i; sleep 0.2; done"),
        module="ray.scripts.scripts",
    )
    code, out, err = head.run("jobs", "logs", "broken", "--follow")
    assert code == 2
    assert "error: " in out
    assert "/no/such/folder" in out
    assert err.splitlines()[-1].startswith("failed: broken, its driver ended with exit code 2 after ")
    assert err.splitlines()[-1].endswith(
        "; mend what its log says and submit the same again, and it continues: what is done is kept."
    )

    # What succeeds was followed to its end.
    code, out, err = ended(nightly)
    assert code == 0, out + err
    assert "python -m sio_ray.cli prepare digits.yaml" in out
    assert "done in" in out
    assert err.splitlines()[0] == f"submitted nightly to {head.environment['RAY_API_SERVER_ADDRESS']}"
    assert err.splitlines()[-1].startswith("succeeded: nightly took ")
    assert "hushhush" not in out + err
    assert list((tmp_path / "runs" / "digits").glob("prepare-*/stage.json"))
    code, out, err = ended(plain)
    assert code == 0, out + err
    assert list((tmp_path / "plain" / "digits").glob("prepare-*/stage.json"))

    # An id that succeeded is not submitted again.
    code, out, err = head.run("submit", "prepare", "digits", *SMALL, shared, "--id", "nightly", "--no-wait")
    assert (code, out, err) == (0, "nightly\n", "job nightly succeeded already, and is not submitted again\n")

    # Ctrl-C leaves a job alone; `stop` ends it.
    ended(endless)
    following = head.start("jobs", "logs", "endless", "--follow")
    assert following.stdout is not None
    assert any("step 1" in line for line in following.stdout)
    following.send_signal(signal.SIGINT)
    code, _, err = ended(following)
    assert code == 130
    assert err.splitlines()[0] == "detached; job endless goes on."
    jobs = listed(head)
    assert {name: (job["stage"], job["config"], job["state"], job["exit_code"]) for name, job in jobs.items()} == {
        "nightly": ("prepare", "digits", "SUCCEEDED", 0),
        "broken": ("prepare", "fashion_mnist", "FAILED", 2),
        "plain": (None, None, "SUCCEEDED", 0),
        "endless": (None, None, "RUNNING", None),
    }
    assert "hushhush" not in json.dumps(jobs)
    code, _, err = head.run("jobs", "stop", "endless")
    assert code == 0
    assert err == "job endless is stopped; what it did is kept, and the same submitted again continues\n"
    code, out, _ = head.run("jobs", "ls")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if line.strip().startswith("endless")] == ["STOPPED"]
    code, out, _ = head.run("jobs", "logs", "endless")
    assert (code, "step 1\nstep 2\n" in out) == (0, True)


def test_who_has_not_the_token_or_asks_for_no_job_is_told_in_one_line(head: Head) -> None:
    asked = {
        "refuses this token; set ": head.start("jobs", "ls", RAY_AUTH_TOKEN="wrong" * 8),
        "asks for a token and none was sent, as RAY_AUTH_MODE is disabled; set ": head.start(
            "jobs", "ls", RAY_AUTH_MODE="disabled"
        ),
        "RAY_AUTH_MODE=token, and there is no token to send ": head.start(
            "jobs", "ls", RAY_AUTH_TOKEN_PATH="/no/such/file"
        ),
        "this cluster knows no job 'nigtly', only ": head.start("jobs", "stop", "nigtly"),
    }
    for told, process in asked.items():
        code, out, err = ended(process)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert told in line
