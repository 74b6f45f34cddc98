"""What is done about Ray itself: connect, check what a cluster has, hold threads to cores, find our errors in Ray's."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Any

from sio_ray.config import ClusterConfig
from sio_ray.errors import ResourceError, SioRayError

#: How long a cluster may take to answer at its address.
_PROBE_TIMEOUT_S = 10


def limit_threads(cpus: int) -> None:
    """Hold this process's math libraries to the cores it was given; two eager processes on two cores crawl.

    `OMP_NUM_THREADS` is for what this process loads or starts later; torch itself is told if it is loaded already.
    """
    os.environ["OMP_NUM_THREADS"] = str(cpus)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(cpus)


def connect(config: ClusterConfig) -> None:
    """Connect to the cluster of a config, or start a local one; a connection that is there already is kept.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    # Read by Ray at import or init, and handed on to the workers it starts; what the user has set stays.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Importing torch in all workers at once takes more than Ray's 60 seconds on a busy machine or a slow file system.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    address = _address(config)
    options = (
        {"address": address}
        if address
        # "local", as without an address Ray would join any cluster that it finds running on this machine.
        else {
            "address": "local",
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "include_dashboard": config.dashboard,
            # Whoever reaches it may run what they like; for others, start a cluster by hand and give its address.
            "dashboard_host": "127.0.0.1",
        }
    )
    try:
        _probe(address)
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ResourceError(
            f"cannot reach a Ray cluster at cluster.address={address!r} ({str(error).splitlines()[0]}); "
            "check the address, or leave it out to start a local one."
        ) from error


def is_ours(config: ClusterConfig) -> bool:
    """Whether `connect` starts a local cluster, which will never grow, rather than joining one."""
    return _address(config) is None


def _address(config: ClusterConfig) -> str | None:
    # Set by `ray job submit`, among others; Ray would follow it too, but not together with the options of a local one.
    return config.address or os.environ.get("RAY_ADDRESS")


def _probe(address: str | None) -> None:
    """Knock at an address first: Ray itself goes on knocking for ten minutes where nobody answers.

    Raises:
        OSError: nobody answers.
        ValueError: the port is no number.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_PROBE_TIMEOUT_S).close()


def check_resources(field: str, *, num_cpus: float, num_gpus: float) -> None:
    """Refuse work that the cluster could never place; Ray would wait for it without end.

    Args:
        field: the config section that asks, for the message.
        num_cpus: cores that the work needs at once.
        num_gpus: GPUs that the work needs at once.

    Raises:
        ResourceError: the cluster has fewer.
    """
    import ray

    have = ray.cluster_resources()
    for kind, need in (("CPU", num_cpus), ("GPU", num_gpus)):
        if need > have.get(kind, 0):
            remedy = (
                "ask for fewer, set its gpus_per_* field to 0 to run on CPUs, or connect to a larger cluster by "
                "cluster.address"
                if kind == "GPU"
                else "ask for fewer runs, workers or cores, or connect to a larger cluster by cluster.address"
            )
            raise ResourceError(
                f"{field} needs {need:g} {kind}s at once, this Ray cluster has {have.get(kind, 0):g}; {remedy}."
            )


def check_workers(
    section: str, *, num_workers: int, cpus_per_worker: int, gpus_per_worker: float, num_runs: int = 1
) -> None:
    """Refuse workers that the cluster could never place, as their sum is too large or no node can hold one.

    Args:
        section: of the config, for the message.
        num_workers: of each run.
        cpus_per_worker: cores of one, all on one node.
        gpus_per_worker: GPUs, or a fraction of one, on the same node.
        num_runs: that run at once.

    Raises:
        ResourceError: the cluster has too few.
    """
    import ray

    count = num_runs * num_workers
    check_resources(section, num_cpus=count * cpus_per_worker, num_gpus=count * gpus_per_worker)
    asked = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
    room = sum(
        min(int(node["Resources"].get(kind, 0) // each) for kind, each in asked.items() if each)
        for node in ray.nodes()
        if node["Alive"]
    )
    if count > room:
        what = " and ".join(f"{each} {kind}s" for kind, each in asked.items() if each)
        raise ResourceError(
            f"{section} needs {count} workers of {what} at once, each on one node, the nodes of this Ray cluster have "
            f"room for {room}; ask for fewer or smaller workers, or connect to a larger cluster by cluster.address."
        )


def our_cause(error: BaseException | None) -> SioRayError | None:
    """The error as it was raised in a task, an actor or a worker, if it was one of ours.

    Ray's own form of it is of our class as well, but has the worker's whole traceback for a message.
    """
    from ray.exceptions import RayTaskError

    while error is not None and (isinstance(error, RayTaskError) or not isinstance(error, SioRayError)):
        # Ray Train keeps what a worker raised under a name of its own.
        error = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error.__cause__
    return error


def value_of(reference: Any) -> Any:
    """What a task returned; an error of ours as it was raised there, without Ray's traceback in its message."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        ours = our_cause(error)
        if ours is None:
            raise
        raise ours from error
