"""What the driver costs as a pool grows: the real schedule with simulated actors, Ray's own calls, notes and manifest.

python benchmarks/scheduling.py --only schedule --json   # 1 to 512 simulated actors, up to 100,000 shards; minutes
python benchmarks/scheduling.py --only edge              # real actors with units that do nothing: what Ray's calls cost
python benchmarks/scheduling.py --only files             # a manifest and notes of 100,000 shards on this disk

`pool_simulation.py` says what is simulated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pool_simulation import DRAWING, Scenario, drawn_shard, simulate

from sio_ray.generate.notes import NOTES_FOLDER, delete_notes, survey
from sio_ray.generate.plan import Plan
from sio_ray.imageset import ImageSetInfo, Manifest
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.storage import Folder
from sio_ray.pool.resources import Patience
from sio_ray.provenance import machine, versions


def measure_schedule() -> dict[str, list[dict[str, Any]]]:
    """Rows of figures, each from its own process, as memory is measured.

    `size`: from one actor to 512, and from ImageNet's shards of 1,024 images to 100,000. `short`: 512 actors that are
    all there from the start, with ever shorter shards, until the driver cannot keep up.
    """
    size = [Scenario(*each) for each in [(1, 2_000), (8, 16_000), (64, 100_000), (512, 100_000), (512, 1_252)]]
    short = [
        Scenario(512, 100_000, sample_s=sample_s, write_s=sample_s / 20, open_s=20, grow_s=0)
        for sample_s in (16, 8, 4, 2, 1, 0.5)
    ]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        return {"size": list(processes.map(simulate, size)), "short": list(processes.map(simulate, short))}


@dataclass(frozen=True)
class Nothing:
    """What is told of a unit that does nothing, but for the time by this machine's clock."""

    time_s: float
    digest: str = ""


class Idle:
    """Does nothing, so that only calls cost."""

    def do(self, unit_id: int) -> Nothing:
        """Return at once."""
        return Nothing(time.time())


def measure_edge(num_actors: int = 8, num_units: int = 5_000) -> dict[str, Any]:
    """Real actors: calls a second of one driver, its CPU time for each, and what does not depend on units."""
    import ray

    from sio_ray.pool.pool import Pool
    from sio_ray.pool.resources import PoolSize

    ray.init(num_cpus=num_actors, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    pool: Pool[Nothing] = Pool(DRAWING, Idle, PoolSize(num_actors, 1, 0), Patience())
    cpu_s, start_s = time.process_time(), time.time()
    pool.run(range(num_units))
    cpu_s = time.process_time() - cpu_s
    done_s = sorted(done.time_s for done in pool.done.values())
    half = num_units // 2  # by then all actors are open
    result = {
        "actors": num_actors,
        "units": num_units,
        "first_unit_s": round(done_s[0] - start_s, 2),
        "units_per_s": round((len(done_s) - half) / (done_s[-1] - done_s[half])),
        "driver_cpu_ms_per_unit": round(cpu_s / num_units * 1e3, 2),
        "look_at_nodes_ms": round(_median_s(ray.nodes, 20) * 1e3, 2),
        "wait_ms": _cost_of_waiting(),
    }
    ray.shutdown()
    return result


def _cost_of_waiting() -> dict[str, float]:
    """Milliseconds of one look at so many calls of which none has ended, as the driver does for each that has."""
    import ray

    class Sleeper:
        def sleep(self) -> None:
            time.sleep(3600)

    sleeper = ray.remote(num_cpus=0)(Sleeper).remote()
    costs = {}
    for num_calls in (16, 128, 1024):
        refs = [sleeper.sleep.remote() for _ in range(num_calls)]

        def look(refs: list[Any] = refs) -> None:
            ray.wait(refs, num_returns=len(refs), timeout=0)

        costs[str(num_calls)] = round(_median_s(look, 50) * 1e3, 3)
    ray.kill(sleeper)
    return costs


def measure_files(num_shards: int = 100_000) -> dict[str, Any]:
    """On a disk here: the manifest of a large set, and notes beside it as a resume and a commit meet them."""
    info = ImageSetInfo(class_names=tuple(f"class {k}" for k in range(1000)), height_px=256, width_px=256, channels=3)
    plan = Plan(num_shards * 1024, (1,) * 1000, 1024, 32, base_seed=0)
    drawn = [drawn_shard(shard_id, num_shards) for shard_id in range(num_shards)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Folder(temporary)
        manifest = Manifest(
            info=info,
            num_images=plan.num_images,
            class_counts=plan.class_counts(),
            shards=tuple(shard.entry for shard in drawn),
        )
        seconds = {"write_manifest": _median_s(lambda: manifest.write(folder), 1)}
        seconds["read_manifest"] = _median_s(lambda: Manifest.read(folder), 1)
        num_bytes = (Path(temporary) / MANIFEST_NAME).stat().st_size
        (Path(temporary) / NOTES_FOLDER).mkdir()
        for shard in drawn:
            # Sparse files of the right size stand for shards, and notes are written without waiting for the disk.
            with (Path(temporary) / shard.entry.name).open("wb") as stream:
                stream.truncate(shard.entry.num_bytes)
            (Path(temporary) / NOTES_FOLDER / f"{shard.entry.name}.json").write_text(shard.model_dump_json())
        seconds["survey"] = _median_s(lambda: survey(folder, plan), 1)
        assert len(survey(folder, plan).noted) == num_shards, "a note was not read"
        seconds["delete_notes"] = _median_s(lambda: delete_notes(folder), 1)
    return {
        "shards": num_shards,
        "manifest_bytes": num_bytes,
        "manifest_bytes_per_shard": round(num_bytes / num_shards, 1),
        "note_bytes": len(drawn[0].model_dump_json()),
        **{f"{name}_s": round(value, 2) for name, value in seconds.items()},
    }


def _median_s(work: Callable[[], Any], times: int) -> float:
    seconds = []
    for _ in range(times):
        start_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)


MEASURES: dict[str, Callable[[], Any]] = {"schedule": measure_schedule, "edge": measure_edge, "files": measure_files}


def main() -> None:
    """Print figures, by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--json", action="store_true", help="on one line")
    arguments = parser.parse_args()
    figures = {part: MEASURES[part]() for part in arguments.only}
    report = {"machine": machine(), "versions": versions(), "scenario": asdict(Scenario(1, 1)), **figures}
    sys.stdout.write(json.dumps(report, indent=None if arguments.json else 1) + "\n")


if __name__ == "__main__":
    main()
