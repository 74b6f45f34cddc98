"""Ray workers of the tests, forked off a process that has imported what all of them import.

A worker takes 3 to 8 seconds of a core to import Ray, torch and diffusers, and the tests start some 300 of them. Ray
runs this file in place of its own that sets up a worker; it hands arguments, environment and output to a warm process
and waits for the worker that comes of it. Clusters that a test starts by a command are not touched; those start cold.

Two generations of warm processes are needed, as Ray reads the environment once, when it is imported: the first has
imported all but Ray, and forks, for each cluster, one that has imported Ray too and forks its workers.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

#: Where the first warm process listens; workers inherit it from their raylet.
_ADDRESS = "SIO_RAY_TESTS_WARM_WORKERS"
#: What Ray reads when it is imported, and is another in each cluster.
_OF_CLUSTER = ("RAY_JOB_ID", "RAY_RAYLET_PID")
#: More threads than a worker has that draw random ids of Ray, a multiple of the 8 pools of entropy that they draw from,
#: and more ids than any of them draws.
_MAX_THREADS, _MAX_IDS = 128, 4096
#: A request is one packet: what the worker is started with, and the files that it needs.
_PACKET = socket.SOCK_SEQPACKET
_MAX_PACKET_BYTES = 1 << 20

_WITHOUT_RAY = (
    "torch._dynamo",
    "torchvision",
    "sklearn.metrics",
    "sio_ray.classifier.trainee",
    "sio_ray.diffusion.pipeline",
    "sio_ray.diffusion.trainee",
    "sio_ray.ood.extract",
)
_WITH_RAY = (
    "ray._private.workers.setup_worker",
    "ray.train.torch",
    "ray.util.metrics",
)


def start() -> None:
    """Start the first warm process, which ends with this one, and have Ray's clusters of this process use it."""
    os.environ[_ADDRESS] = address = f"{tempfile.gettempdir()}/sio-ray-tests-{os.getpid()}"
    Path(address).unlink(missing_ok=True)
    log = os.open(f"{address}.log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.posix_spawn(
        sys.executable,
        [sys.executable, __file__, "serve", str(os.getpid())],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
        setsid=True,
    )
    os.close(log)
    from ray._private.parameter import RayParams

    original = RayParams.update_if_absent

    def update_if_absent(self: RayParams, **values: object) -> None:
        if "setup_worker_path" in values:
            values["setup_worker_path"] = __file__
        original(self, **values)

    RayParams.update_if_absent = update_if_absent


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _serve(parent: int) -> None:
    """Fork a process for each cluster that asks for a worker, and hand it the requests, until the parent is gone."""
    for name in _WITHOUT_RAY:
        __import__(name)
    assert "ray" not in sys.modules, "Ray has read the environment"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    clusters: dict[tuple[str, ...], socket.socket] = {}
    with socket.socket(socket.AF_UNIX, _PACKET) as listener:
        listener.bind(os.environ[_ADDRESS])
        listener.listen(64)
        listener.settimeout(1)
        while _alive(parent):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                request, outputs, _, _ = socket.recv_fds(connection, _MAX_PACKET_BYTES, 2)
                if not request:  # killed as it began
                    continue
                environment = json.loads(request)["environment"]
                key = tuple(environment[name] for name in _OF_CLUSTER)
                if key not in clusters:
                    clusters[key], theirs = socket.socketpair(socket.AF_UNIX, _PACKET)
                    if os.fork() == 0:
                        listener.close()
                        connection.close()
                        _serve_cluster(theirs, environment)
                    theirs.close()
                socket.send_fds(clusters[key], [request], [connection.fileno(), *outputs])
                for output in outputs:
                    os.close(output)
    for name in ("", ".log"):
        Path(os.environ[_ADDRESS] + name).unlink()


def _serve_cluster(requests: socket.socket, environment: dict[str, str]) -> NoReturn:
    """Fork a worker for each request of one cluster, until its raylet is gone."""
    _take(environment)
    for name in _WITH_RAY:
        __import__(name)
    raylet = int(environment["RAY_RAYLET_PID"])
    requests.settimeout(1)
    while _alive(raylet):
        try:
            request, files, _, _ = socket.recv_fds(requests, _MAX_PACKET_BYTES, 3)
        except TimeoutError:
            continue
        if not request:
            break
        _skip_random_ids()
        # The connection, which is the worker's sign of life, stays open in it for as long as it lives.
        if os.fork() == 0:
            requests.close()
            _become_worker(**json.loads(request), outputs=files[1:])
        for file in files:
            os.close(file)
    os._exit(0)


def _skip_random_ids() -> None:
    """Leave to the next worker ids that none before it draws.

    Importing Ray seeds what its C++ draws ids from, for this thread and for all to come, and forks have copies of it.
    Two workers that give a task, or an object, the same id end Ray with a failed check.
    """
    from ray import ObjectRef

    threads = [threading.Thread(target=ObjectRef.from_random) for _ in range(_MAX_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(_MAX_IDS):
        ObjectRef.from_random()


def _become_worker(arguments: list[str], environment: dict[str, str], folder: str, outputs: list[int]) -> NoReturn:
    """Do what Ray's own file does, without an interpreter of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, output in zip((1, 2), outputs, strict=True):
        os.dup2(output, number)
        os.close(output)
    os.setpgid(0, 0)
    _take(environment)
    os.chdir(folder)
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.workers.setup_worker import parser

    known, command = parser.parse_known_args(arguments)
    os.environ.update(RuntimeEnvContext.deserialize(known.serialized_runtime_env_context or "{}").env_vars)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")
    sys.exit()


def _take(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _ask_for_worker() -> None:
    """What Ray runs: ask for a worker, and wait until it has ended."""
    request = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": str(Path.cwd())}
    deadline_s = time.monotonic() + 120
    with socket.socket(socket.AF_UNIX, _PACKET) as connection:
        while True:
            try:
                connection.connect(os.environ[_ADDRESS])
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)
        socket.send_fds(connection, [json.dumps(request).encode()], [1, 2])
        connection.recv(1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]))
    else:
        _ask_for_worker()
