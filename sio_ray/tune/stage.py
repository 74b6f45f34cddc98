"""Stage `tune`: searches training settings for OOD AUROC on the validation sets; test sets are never read."""

from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path
from typing import Any

from sio_ray.cluster import check_workers, connect
from sio_ray.config import Config, to_yaml, with_overrides
from sio_ray.errors import TrainingError
from sio_ray.imageset.storage import Folder
from sio_ray.provenance import machine, versions
from sio_ray.search.search import Search
from sio_ray.search.space import Space, read_space
from sio_ray.stages.layout import (
    BEST_CONFIG_NAME,
    SEARCH_PAGE_NAME,
    Place,
    place_for,
    prepare_place,
    synthetic_identity,
    training_recipe,
)
from sio_ray.stages.record import Outcome, run_once
from sio_ray.stages.shared_storage import check_shared_storage
from sio_ray.training.side_by_side import side_by_side
from sio_ray.tune.checks import check_concurrency, check_objectives, check_space
from sio_ray.tune.outcome import outcome_of, print_outcome, trials_table
from sio_ray.tune.runner import Play, cpus_per_worker, play
from sio_ray.tune.sets import TrialSets
from sio_ray.tune.watch import Watch, short
from sio_ray.tune.work import draws_sets

TRIALS_NAME, CSV_NAME = "trials.parquet", "trials.csv"


def tune(config: Config) -> Outcome:
    """Search; write all trials, a page, and `best.yaml`, a config that `sio-ray run` takes.

    The baseline is always one of the trials, so a gain is a gain over something.

    Raises:
        StageError: an earlier stage has not run for this config.
        ConfigError: the space is broken, leaves a field's bounds, or asks for more synthetic images than there are; or
            no validation set gives an objective.
        BatchError: with some of its values a batch cannot hold both sources.
        ImageSetError: there is no near-OOD validation set.
        ResourceError: the cluster has too few cores or GPUs.
        TrainingError: the baseline, or every trial, failed.
    """
    space = read_space(config.tune.space)
    place = search_place(config, space)
    outcome = run_once(
        "tune",
        place.folder,
        place.identity,
        config,
        lambda folder: _work(config, folder, space),
        outputs=[BEST_CONFIG_NAME, TRIALS_NAME, CSV_NAME, SEARCH_PAGE_NAME],
    )
    print_outcome(outcome.result, outcome.output)
    return outcome


def search_place(config: Config, space: Space) -> Place:
    """Where the outcome of a search goes; its trials lie beside it, by what decides them."""
    identity = {
        **config.tune.identity(),
        "space": {key: list(entry) for key, entry in space.items()},
        "train": training_recipe(config),
        "prepare": prepare_place(config).fingerprint,
        "synthetic": synthetic_identity(config),
        "draws": config.generate.identity() if draws_sets(space) else None,
        "detector_options": config.judging_options,
    }
    return place_for(config, "tune", identity)


def _work(config: Config, folder: Path, space: Space) -> dict[str, Any]:
    section = config.tune
    connect(config.cluster)
    check_shared_storage(config, "tune")
    sets = TrialSets(config, space)
    check_space(space, config, sets.num_real, sets.num_synthetic)
    check_objectives(config, sets.ood_groups)
    search = Search(config, space)
    check_concurrency(config, learns=search.learns)
    check_workers(
        f"tune.concurrent_trials={section.concurrent_trials}",
        num_workers=section.workers_per_trial,
        cpus_per_worker=cpus_per_worker(config, sets),
        gpus_per_worker=section.gpus_per_trial,
        num_runs=section.concurrent_trials,
    )
    start_s = time.monotonic()
    watch = Watch(section, search.num_trials)
    with watch.shown():
        # In a thread, as Ctrl-C would otherwise be Tune's alone.
        (played,) = side_by_side([partial(play, config, search, sets, watch, folder)], limit=1)
    result = outcome_of(config, space, search, played, sets, wall_s=time.monotonic() - start_s)
    _refuse_what_failed(result, played)
    _write(config, folder, result)
    if section.algorithm == "pbt":
        played.delete_states()
    _tell_what_failed(result, folder, learns=search.learns)
    return result


def _refuse_what_failed(result: dict[str, Any], played: Play) -> None:
    """Stop where there is nothing to compare; single trials that failed are listed, and the rest stands.

    Raises:
        TrainingError: the baseline failed, or all trials.
    """
    usable = [index for index, found in played.results.items() if found.status in ("done", "stopped")]
    if 0 in usable and (len(usable) > 1 or len(played.results) == 1):
        return
    index, found = min((index, found) for index, found in played.results.items() if index not in usable)
    what = "the baseline" if index == 0 else f"all {len(played.results) - 1} trials beside the baseline"
    if found.status == "diverged":  # a result, which the same command would take from disk
        remedy = "change what it trains with, such as train.learning_rate, as the same config diverges again"
    else:
        remedy = "mend what it says, and run the same command again"
    raise TrainingError(f"{what} {found.status}: {(found.error or '').rstrip('.')}; {remedy}.")


def _tell_what_failed(result: dict[str, Any], folder: Path, *, learns: bool) -> None:
    """End with an error if single trials failed; what the others found is written and said first.

    Args:
        result: of the search.
        folder: of the search.
        learns: whether later trials were decided by what came of the failed ones.

    Raises:
        TrainingError: the trials and the first error are named.
    """
    failed = result["failed"]
    if not failed:
        return
    print_outcome(result, folder)
    first = next(row["error"] for row in result["trials"] if row["index"] == failed[0])
    again = "run the same command again to retry only the failed ones"
    if learns:
        again = (
            "run the same command again to retry the failed ones; later trials are decided by what comes of these, so "
            "some may be others then, which are trained anew, and the best may be another"
        )
    raise TrainingError(
        f"{len(failed)} of {len(result['trials'])} trials failed ({', '.join(map(str, failed))}), the first with: "
        f"{(first or '').rstrip('.')}. All others are kept, and {BEST_CONFIG_NAME} and {SEARCH_PAGE_NAME} are of these;"
        f" {again}."
    )


def _write(config: Config, folder: Path, result: dict[str, Any]) -> None:
    # Here, as it loads what draws, which a search need not wait for to begin.
    from sio_ray.report.search_page import write_search_page

    storage, table = Folder(str(folder)), trials_table(result)
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    best = to_yaml(with_overrides(config, result["best_values"]))
    storage.write_bytes(TRIALS_NAME, buffer.getvalue())
    storage.write_bytes(CSV_NAME, table.to_csv(index=False).encode())
    storage.write_bytes(BEST_CONFIG_NAME, best.encode())
    write_search_page(
        result,
        folder / SEARCH_PAGE_NAME,
        title=f"{config.name}: search over {', '.join(short(field) for field in result['fields'])}",
        facts={
            "Machine": machine(),
            "Versions": "\n".join(f"{name} {version}" for name, version in versions().items()),
            "Config of the search": to_yaml(config),
        },
    )
