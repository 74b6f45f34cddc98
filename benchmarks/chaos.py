"""Hurt running work at random, at least 200 times, and see that its results are those of undisturbed work.

python benchmarks/chaos.py                         # 200 faults of all kinds, then a table; half an hour on 2 cores
python benchmarks/chaos.py --faults 20 --only generation --json

Generation: actors, nodes and the driver are killed, samplers raise, hang and leak, the disk is full; an object store
fails every tenth request. Training: workers and nodes are killed. Search: trials and the driver are killed. Every
result is compared with that of undisturbed work, byte by byte where it is a set or a classifier. Needs the test
dependencies (`pip install --group test`), and root for the small disk that is filled up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers import the package of this checkout, and the modules beside this file.
ROOT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH")])
)
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults import generation, object_store, search, training  # noqa: E402 - Ray reads the environment at import
from faults.ledger import Ledger  # noqa: E402

from sio_ray.provenance import machine  # noqa: E402

#: What is hurt, and how many of 100 faults it gets.
GROUPS = {"generation": (generation, 92), "training": (training, 5), "search": (search, 3)}


def plan_faults(count: int, only: str | None, rng: random.Random) -> dict[str, list[str]]:
    """Group to the kinds of its faults, in random order; together so many."""
    groups = {name: group for name, group in GROUPS.items() if only in (None, name)}
    weights = {
        (name, kind): share * module.SHARES[kind] / sum(module.SHARES.values())
        for name, (module, share) in groups.items()
        for kind in module.SHARES
    }
    exact = {key: count * weight / sum(weights.values()) for key, weight in weights.items()}
    counts = {key: int(value) for key, value in exact.items()}
    for key in sorted(exact, key=lambda key: counts[key] - exact[key])[: count - sum(counts.values())]:
        counts[key] += 1
    planned = {
        name: [kind for (group, kind), n in counts.items() if group == name for _ in range(n)] for name in groups
    }
    for kinds in planned.values():
        rng.shuffle(kinds)
    return planned


def main() -> None:
    """Hurt, check, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=GROUPS, help="one kind of work")
    parser.add_argument("--folder", type=Path, help="to work in, deleted at the end; a temporary one if not given")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sio_ray_chaos_"))
    ledger, rng, start_s = Ledger(arguments.faults), random.Random(arguments.seed), time.monotonic()
    try:
        for name, kinds in plan_faults(arguments.faults, arguments.only, rng).items():
            if not kinds:
                continue
            ledger.say(f"{name}: {len(kinds)} faults")
            (folder / name).mkdir(parents=True)
            try:
                GROUPS[name][0].run(kinds, ledger, folder / name, rng)
            except Exception as error:  # noqa: BLE001 - it is said, and the others have their turn
                ledger.complain(f"{name} ended with {type(error).__name__}: {error}")
        store = object_store.run(ledger, folder) if arguments.only in (None, "generation") else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "machine": machine(),
        "seed": arguments.seed,
        "wall_s": round(time.monotonic() - start_s),
        "is_good": ledger.is_good,
        "trouble": ledger.trouble,
        "object_store": store,
        "kinds": ledger.rows(),
        "works": [asdict(work) for work in ledger.works],
        "faults": ledger.details(),
    }
    ledger.say(ledger.table())
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{ledger.table()}\n\nobject store: {store}\n{machine()}, {result['wall_s'] / 60:.0f} min")
        print("\n".join(["", *ledger.trouble]))
    sys.exit(0 if ledger.is_good else 1)


if __name__ == "__main__":
    main()
