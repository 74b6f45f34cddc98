"""Stage `tune`: Ray Tune over a search space, judged by OOD AUROC on the validation sets; test sets are never read."""

from __future__ import annotations

import io
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray.tune
import torch
from rich.table import Table

from sio_ray.classifier.schedules import num_steps_of
from sio_ray.classifier.trainee import build_trainee
from sio_ray.cluster import check_resources, connect, limit_threads
from sio_ray.config import Config, build_config, to_yaml, with_overrides
from sio_ray.errors import TrainingError
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pixel_counts import statistics_of
from sio_ray.imageset.storage import Folder
from sio_ray.ood.detectors.reading import choose_detectors, probes_of_train
from sio_ray.ood.extract import extract, last_layer_of
from sio_ray.ood.protocol import EvaluationSets, evaluate_detector
from sio_ray.progress import console, watch_runs
from sio_ray.space import check_space, read_space, sample_trials
from sio_ray.stages.layout import Place, place_for, prepare_place, synthetic_identity, training_recipe
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import Outcome, remove_folder, run_once
from sio_ray.stages.train import architecture_for
from sio_ray.stages.training_sets import open_training_sets, pool_sizes
from sio_ray.training.feeds import open_feed, share_sources
from sio_ray.training.loop import SilentReporter, train
from sio_ray.training.shared_sets import fetch, pixel_counts_of, share
from sio_ray.training.side_by_side import side_by_side

BEST_NAME, TRIALS_NAME = "best.yaml", "trials.parquet"


def tune(config: Config) -> Outcome:
    """Search; write `trials.parquet`, and `best.yaml`, a config that `sio-ray run` takes.

    The baseline is always one of the trials, so a gain is a gain over something.

    Raises:
        StageError: `prepare` or `generate` has not run for this config.
        ConfigError: the space is broken, leaves a field's bounds, or asks for more synthetic images than there are.
        ResourceError: the cluster has too few cores or GPUs.
        TrainingError: a trial failed; finished ones are kept for the next time.
    """
    space = read_space(config.tune.space)
    place = _place(config, space)
    outcome = run_once(
        "tune",
        place.folder,
        place.identity,
        config,
        lambda folder: _work(config, folder, space),
        outputs=[BEST_NAME, TRIALS_NAME],
    )
    _print_trials(outcome)
    return outcome


def _place(config: Config, space: dict[str, Any]) -> Place:
    identity = {
        **config.tune.identity(),
        "space": {key: list(entry) for key, entry in space.items()},
        "train": training_recipe(config),
        "prepare": prepare_place(config).fingerprint,
        "synthetic": synthetic_identity(config),
    }
    return place_for(config, "tune", identity)


def _work(config: Config, folder: Path, space: dict[str, Any]) -> dict[str, Any]:
    section = config.tune
    sets = open_training_sets(config, "tune", with_synthetic=True)
    assert sets.synthetic is not None, "it was asked for"
    check_space(space, config, len(sets.synthetic) / len(sets.real))
    ood = PreparedSets(config, "tune").ood("val")
    trials = [
        {"arm": "baseline"},
        *({"arm": "sio", **values} for values in sample_trials(space, section.num_trials, section.search_seed)),
    ]
    # Tune's own result files in every format are not needed: trials write their results themselves.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Its newer output prints to standard output even where it is told to say nothing.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    connect(config.cluster)
    check_resources("tune", num_cpus=section.cpus_per_trial, num_gpus=section.gpus_per_trial)
    base = config.model_dump(mode="json")
    sources = {**sets.sources("sio"), "synthetic": (sets.synthetic.uri, None)}
    data = {
        "info": sets.real.info.model_dump(mode="json"),
        "statistics": statistics_of(pixel_counts_of(sets.real.uri)),
        "num_real": len(sets.real),
        "num_synthetic": len(sets.synthetic),
        # Decoded once, and shared by all trials on a node.
        "sources": share_sources(config.train, sources, sets.val.uri),
        "ood": share({f"{group}/{name}": (str(path), None) for (group, name), path in ood.items()}),
    }
    (rows,) = side_by_side([partial(_search, config, folder, trials, base, data)], limit=1)
    table = pd.DataFrame(rows)
    best = max(rows, key=lambda row: row["near_auroc"])
    chosen = {key: value for key, value in best["values"].items() if key != "arm"}
    if best["arm"] == "baseline":
        chosen = {"train.arms": ["baseline"]}
    storage = Folder(str(folder))
    buffer = io.BytesIO()
    pd.json_normalize(rows).to_parquet(buffer, index=False)
    storage.write_bytes(TRIALS_NAME, buffer.getvalue())
    storage.write_bytes(BEST_NAME, to_yaml(with_overrides(config, chosen)).encode())
    remove_folder(folder / "ray_tune")
    baseline = table[table["arm"] == "baseline"]["near_auroc"].item()
    return {"trials": rows, "best": best, "baseline_near_auroc": baseline, "detectors": list(section.detectors)}


def _search(
    config: Config,
    folder: Path,
    trials: list[dict[str, Any]],
    base: dict[str, Any],
    data: dict[str, Any],
) -> list[dict[str, Any]]:
    """Run the trials that have no result yet.

    Every trial writes its own result, whole, when it ends; a search that was killed at any moment continues from these,
    not from Tune's snapshots, which are a second behind and pickled.
    """
    storage = Folder(str(folder))
    missing = [index for index in range(len(trials)) if not storage.exists(_trial_name(index))]
    if len(missing) < len(trials):
        console.print(f"  {len(trials) - len(missing)} of {len(trials)} trials are done already; running the others")
    with watch_runs({"searching": len(missing)}, unit="trials") as board:
        trainable = ray.tune.with_resources(
            ray.tune.with_parameters(_trial, base=base, data=data, board=board, uri=str(folder)),
            {"CPU": config.tune.cpus_per_trial, "GPU": config.tune.gpus_per_trial},
        )
        tuner = ray.tune.Tuner(
            trainable,
            param_space={"trial": ray.tune.grid_search([{"index": index, **trials[index]} for index in missing])},
            tune_config=ray.tune.TuneConfig(max_concurrent_trials=config.tune.concurrent_trials),
            run_config=ray.tune.RunConfig(name="search", storage_path=str(folder / "ray_tune"), verbose=0),
        )
        results = tuner.fit() if missing else None
    if results is not None and results.errors:
        first = str(results.errors[0]).strip().splitlines()[-1]
        raise TrainingError(
            f"{len(results.errors)} of {len(trials)} trials failed, the first with: {first}; "
            "run the same command again to retry only these."
        )
    return [
        {"arm": values["arm"], "values": values, **json.loads(storage.read_bytes(_trial_name(index)))}
        for index, values in enumerate(trials)
    ]


def _trial_name(index: int) -> str:
    return f"trial-{index:04d}.json"


def _trial(
    params: dict[str, Any],
    base: dict[str, Any],
    data: dict[str, Any],
    board: Any,
    uri: str,
) -> None:
    """Runs in a Ray Tune worker: train once per seed in this process, and report the means."""
    values = dict(params["trial"])
    index, arm = values.pop("index"), values.pop("arm")
    config = with_overrides(build_config(base), values)
    num_steps = config.tune.num_steps or num_steps_of(config.train, data["num_real"])
    section = config.train.model_copy(update={"num_steps": num_steps})
    limit_threads(config.tune.cpus_per_trial)
    ratio = section.synthetic_ratio
    count = data["num_synthetic"] if ratio is None else round(ratio * data["num_real"])
    sources = {name: source for name, source in data["sources"].items() if name != "val"}
    if arm == "baseline":
        del sources["synthetic"]
    # Of this trial, as the search may be over networks or algorithms.
    architecture = architecture_for(section, ImageSetInfo.model_validate(data["info"]), data["statistics"])
    val, device = fetch(data["sources"]["val"]), torch.device("cuda" if config.tune.gpus_per_trial else "cpu")
    start_s = time.monotonic()
    scores: list[dict[str, float]] = []
    for seed in config.tune.seeds:
        feed = open_feed(
            section,
            sources,
            arm=arm,
            seed=seed,
            device=device,
            pool_size=pool_sizes(section, data["num_real"], count),
        )
        trainee = build_trainee(section, architecture, feed, val, arm=arm, seed=seed, device=device)
        curve = train(
            trainee, num_steps=section.num_steps, report_every_steps=section.num_steps, reporter=SilentReporter()
        )
        feed.close()
        auroc = _val_auroc(trainee.classifier.eval(), data, config)
        scores.append({**auroc, "val_accuracy": curve[-1]["val_accuracy"]})
    means = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
    stds = {f"{name}_std": float(np.std([score[name] for score in scores])) for name in ("near_auroc", "far_auroc")}
    result = {**means, **stds, "num_seeds": len(scores), "train_s": round(time.monotonic() - start_s, 3)}
    Folder(uri).write_bytes(_trial_name(index), json.dumps(result).encode())
    ray.tune.report(result)
    board.add.remote("searching", {"near_auroc": means["near_auroc"]})


def _val_auroc(classifier: Any, data: dict[str, Any], config: Config) -> dict[str, float]:
    """Mean near- and far-OOD AUROC over the tuning detectors, ID validation against OOD validation."""
    detectors = choose_detectors(config.tune.detectors, None, classifier, field="tune.detectors")
    of = partial(extract, classifier, batch_size=config.evaluate.batch_size)
    train_outputs = of(fetch(data["sources"]["real"]), probes=probes_of_train(detectors), where="id/train")
    # Options are not swept here: the validation sets that would choose them are those that judge.
    probes = [probe.fitted(train_outputs) for detector in detectors for probe in detector.chosen_probes()]
    val_outputs = of(fetch(data["sources"]["val"]), probes=probes, where="id/val")
    sets = EvaluationSets(
        train=train_outputs,
        val=val_outputs,
        test=val_outputs,
        ood={tuple(key.split("/", 1)): of(fetch(ref), probes=probes, where=key) for key, ref in data["ood"].items()},
        last_layer=last_layer_of(classifier),
    )
    metrics = pd.concat([evaluate_detector(detector, sets, sweep=False).metrics for detector in detectors])
    per_group = metrics.groupby("group")["auroc"].mean()
    return {f"{group}_auroc": float(per_group.get(group, float("nan"))) for group in ("near", "far")}


def _print_trials(outcome: Outcome) -> None:
    result = outcome.result
    table = Table(title="Validation OOD AUROC, %, best first", title_justify="left", box=None)
    keys = sorted({key for row in result["trials"] for key in row["values"] if key != "arm"})
    for name in ("arm", *keys):
        table.add_column(name.removeprefix("train."))
    for name in ("near", "far", "ID accuracy"):
        table.add_column(name, justify="right")
    for row in sorted(result["trials"], key=lambda row: -row["near_auroc"]):
        cells = [f"{row['values'].get(key, '')}" for key in keys]
        numbers = [f"{100 * row[name]:.1f}" for name in ("near_auroc", "far_auroc", "val_accuracy")]
        table.add_row(row["arm"], *cells, *numbers, style="dim" if row["arm"] == "baseline" else "")
    console.print(table)
    gain = 100 * (result["best"]["near_auroc"] - result["baseline_near_auroc"])
    path = os.path.relpath(outcome.output / BEST_NAME)
    console.print(
        f"best: {gain:+.1f} points over the baseline on validation sets, {result['best']['num_seeds']} seed(s) each"
    )
    console.print(f"next: sio-ray run {path}", soft_wrap=True)
