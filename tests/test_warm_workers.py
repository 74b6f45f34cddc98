"""The workers of the tests are forks of one process, but no two of them draw the same ids."""

from __future__ import annotations

import threading
from types import ModuleType


class Worker:
    """What Ray in C++ draws in a process."""

    def ids(self) -> list[str]:
        """Of ten new threads, and of its own."""
        from ray import ObjectRef

        drawn: list[str] = []
        for thread in [threading.Thread(target=lambda: drawn.append(ObjectRef.from_random().hex())) for _ in range(10)]:
            thread.start()
            thread.join()
        return [*drawn, ObjectRef.from_random().hex()]


def test_no_two_workers_draw_the_same_ids(ray_cluster: ModuleType) -> None:
    workers = [ray_cluster.remote(Worker).options(num_cpus=0).remote() for _ in range(4)]
    ids = ray_cluster.get([worker.ids.remote() for worker in workers])
    assert len({each for drawn in ids for each in drawn}) == sum(map(len, ids))
