"""What the pool asks Ray for, what the cluster has of that, and how much trouble the pool bears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sio_ray.errors import ResourceError, SioRayError


@dataclass(frozen=True)
class Work:
    """What a pool works on, as its messages name it, and how it fails.

    Attributes:
        stage: who asks for actors.
        doing: the work, as in "drawing again".
        cpus_field: of the config; says how many cores each actor has.
        gpus_field: likewise, GPUs.
        timeout_field: likewise, how long a unit may take.
        error: for work that cannot go on.
        fatal: errors of the setting, not of a unit: they would come again on every actor, so they end the work.
    """

    stage: str
    doing: str
    cpus_field: str
    gpus_field: str
    timeout_field: str
    error: type[SioRayError]
    fatal: tuple[type[SioRayError], ...]


@dataclass(frozen=True)
class PoolSize:
    """What the pool asks Ray for.

    Attributes:
        num_actors: at the most; 0 takes as many as the cluster fits, now and as it grows and shrinks.
        threads_per_actor: CPU cores of each, and its threads.
        gpus_per_actor: GPUs (or a fraction of one) of each.
        accelerator_type: the one kind of GPU that will do; None takes any.
    """

    num_actors: int
    threads_per_actor: int
    gpus_per_actor: float
    accelerator_type: str | None = None

    def places_on(self, resources: dict[str, float]) -> int:
        """How many such actors a node with these resources holds if it holds nothing else."""
        if self.accelerator_type and f"accelerator_type:{self.accelerator_type}" not in resources:
            return 0
        places = int(resources.get("CPU", 0) // self.threads_per_actor)
        if self.gpus_per_actor:
            # An actor's fraction is of one GPU; it is not put together from two.
            places = min(places, int(resources.get("GPU", 0)) * int(1 / self.gpus_per_actor + 1e-6))
        return places

    def capacity(self) -> int:
        """How many such actors the nodes that are alive hold if they hold nothing else."""
        import ray  # here, as the schedule, which asks for Patience and Work alone, does without

        return sum(self.places_on(node["Resources"]) for node in ray.nodes() if node["Alive"])

    def wanted(self) -> int:
        """How many actors there should be now; one at least, so that a cluster that scales by demand sees some."""
        return self.num_actors or max(1, self.capacity())

    def describe(self) -> str:
        """What one actor needs, in words."""
        gpus = f" and {self.gpus_per_actor:g} GPUs" if self.gpus_per_actor else ""
        return f"{self.threads_per_actor} CPUs{gpus}{f' ({self.accelerator_type})' if self.accelerator_type else ''}"

    def no_place(self, work: Work) -> ResourceError:
        """The error for a cluster that holds no such actor."""
        import ray

        have = ray.cluster_resources()
        return ResourceError(
            f"{work.stage} needs {self.describe()} for one actor, no node of this Ray cluster has that (in all it has "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs); lower {work.cpus_field} or "
            f"{work.gpus_field}, or connect to a larger cluster by cluster.address. Finished shards are kept."
        )

    def options(self) -> dict[str, Any]:
        """Options of the actor for Ray."""
        kind = {"accelerator_type": self.accelerator_type} if self.accelerator_type else {}
        return {"num_cpus": self.threads_per_actor, "num_gpus": self.gpus_per_actor, **kind}


@dataclass(frozen=True)
class Patience:
    """How much trouble the pool bears.

    Attributes:
        max_failures_per_unit: then a unit is set aside.
        unit_timeout_s: an actor that needs longer for a unit is replaced; so is one that needs longer, and half an hour
            at least, to make its worker.
        max_wait_s: how long no actor may find a place in the cluster.
        max_trouble_in_a_row: actors that die, or units that cannot be written, with none opened or done in between;
            as many as there are actors, where these are more.
        max_hung_openings: how often each actor of the pool may take too long to make its worker, likewise in a row, as
            each time costs half an hour and more.
        max_units_per_actor: then an actor is recycled: replaced by a new one, which is no trouble; None: never.
        memory_limit_bytes: an actor that holds more after a unit is recycled too; None: never.
    """

    max_failures_per_unit: int = 3
    unit_timeout_s: float = 3600.0
    max_wait_s: float = 1800.0
    max_trouble_in_a_row: int = 10
    max_hung_openings: int = 3
    max_units_per_actor: int | None = None
    memory_limit_bytes: int | None = None
