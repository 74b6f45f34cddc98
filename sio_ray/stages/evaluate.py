"""Stage `evaluate`: every checkpoint scored by every detector, in Ray tasks, and the synthetic set measured."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from sio_ray.cluster import check_resources, connect, limit_threads
from sio_ray.config import Config, EvaluateConfig
from sio_ray.errors import CheckpointError, EvaluationError, SioRayError
from sio_ray.imageset import ImageSet
from sio_ray.imageset.storage import Folder
from sio_ray.ood.detectors import build_detectors
from sio_ray.ood.protocol import summarise
from sio_ray.progress import progress_bars
from sio_ray.stages.layout import Run, evaluate_place, synthetic_set_uri, train_runs
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import Outcome, require, run_once
from sio_ray.stages.train import checkpoint_name

METRICS_NAME = "metrics.json"
SCORES_NAME = "scores.parquet"

#: Synthetic pictures whose nearest training picture is sought; the cost grows with this times the training set.
_MAX_MEMORISATION_IMAGES = 10_000


def evaluate(config: Config) -> Outcome:
    """Score all test sets with every checkpoint and detector, and write `metrics.json` and `scores.parquet`.

    Raises:
        StageError: an earlier stage has not run for this config.
        CheckpointError: a checkpoint is broken or of another architecture.
        ConfigError: an unknown detector, or one that reads a last layer that is not there.
        EvaluationError: scores or metrics cannot be computed.
    """
    place = evaluate_place(config)
    return run_once(
        "evaluate",
        place.folder,
        place.identity,
        config,
        lambda folder: _work(config, folder),
        outputs=[METRICS_NAME, SCORES_NAME],
    )


def _work(config: Config, folder: Path) -> dict[str, Any]:
    import ray

    section = config.evaluate
    prepared = PreparedSets(config, "evaluate")
    runs = train_runs(config)
    for run in runs:
        require(run.place.folder, "train", "evaluate")
    synthetic_uri = synthetic_set_uri(config) if any(run.arm == "sio" for run in runs) else None
    sets = {
        "train": prepared.open("id/train").uri,
        "test": prepared.open("id/test").uri,
        "ood": {key: str(path) for key, path in prepared.ood("test").items()},
    }
    connect(config.cluster)
    check_resources("evaluate", num_cpus=section.cpus_per_task, num_gpus=section.gpus_per_task)
    options = {"num_cpus": section.cpus_per_task, "num_gpus": section.gpus_per_task}
    task = ray.remote(**options)(_evaluate_run)
    storage = Folder(str(folder))
    waiting: dict[Any, str] = {}
    for run in runs:
        if run.member == 0 and not storage.exists(_part(run)):
            members = [other for other in runs if (other.arm, other.seed) == (run.arm, run.seed)]
            checkpoints = [str(member.place.folder / checkpoint_name(config)) for member in members]
            agreement_on = synthetic_uri if run.arm == "baseline" else None
            ref = task.remote(checkpoints, sets, section, agreement_on, folder, run.arm, run.seed)
            waiting[ref] = run.name
    quality_ref = None
    if synthetic_uri:
        quality_task = ray.remote(**options)(_measure_memorisation)
        quality_ref = quality_task.remote(synthetic_uri, sets["train"], prepared.open("id/val").uri, section)
        waiting[quality_ref] = "synthetic set"
    quality: dict[str, Any] = {}
    with progress_bars() as bars:
        bar = bars.add_task("scoring", total=len(waiting), unit="checkpoints", note="")
        while waiting:
            (ref,), _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(ref)
            try:
                value = ray.get(ref)
            except ray.exceptions.RayError as error:  # an exception in the task, or the death of its worker
                cause = getattr(error, "cause", None) or error
                if isinstance(cause, SioRayError):
                    raise cause from error
                raise EvaluationError(
                    f"evaluating {name} failed ({type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}); what "
                    "is done is kept: run the same command again, with --debug for the whole error."
                ) from error
            if ref == quality_ref:
                quality = value
            bars.update(bar, advance=1)
    return _gather(runs, storage, quality)


def _part(run: Run) -> str:
    return f"{run.arm}-seed{run.seed}.json"


def _gather(runs: list[Run], storage: Folder, quality: dict[str, Any]) -> dict[str, Any]:
    """Put the parts of all runs into the two files that people read."""
    metrics, accuracies, agreements, scores = [], [], [], []
    for run in runs:
        if run.member:
            continue  # scored with the first
        keys = {"arm": run.arm, "seed": run.seed}
        part = json.loads(storage.read_bytes(_part(run)))
        metrics += [keys | row for row in part["metrics"]]
        accuracies.append({**keys, "accuracy": part["id_accuracy"]})
        if part["agreement"] is not None:
            agreements.append({**keys, **part["agreement"]})
        table = pd.read_parquet(io.BytesIO(storage.read_bytes(_scores_part(run))))
        scores.append(table.assign(**keys))
    if agreements:
        quality["label_agreement"] = sum(row["mean"] for row in agreements) / len(agreements)
        by_class = [row["by_class"] for row in agreements]
        quality["label_agreement_by_class"] = [sum(values) / len(values) for values in zip(*by_class, strict=True)]
    buffer = io.BytesIO()
    pd.concat(scores, ignore_index=True).to_parquet(buffer, index=False)
    storage.write_bytes(SCORES_NAME, buffer.getvalue())
    result = {
        "summary": json.loads(summarise(pd.DataFrame(metrics)).to_json(orient="records", double_precision=10)),
        "id_accuracy": accuracies,
        "quality": quality,
    }
    storage.write_bytes(METRICS_NAME, (json.dumps({"metrics": metrics, **result}, indent=1) + "\n").encode())
    return result


def _scores_part(run: Run) -> str:
    return f"{run.arm}-seed{run.seed}.parquet"


def _evaluate_run(
    checkpoints: list[str],
    sets: dict[str, Any],
    section: EvaluateConfig,
    agreement_on: str | None,
    folder: Path,
    arm: str,
    seed: int,
) -> None:
    """Runs in a Ray task: one classifier or ensemble, every image set once, every detector; writes the run's part."""
    import torch

    from sio_ray.classifier.checkpoint import load_checkpoints
    from sio_ray.ood.extract import extract, last_layer_of
    from sio_ray.ood.outputs import NetworkOutputs
    from sio_ray.ood.protocol import evaluate_checkpoint, id_accuracy

    limit_threads(section.cpus_per_task)
    classifier = load_checkpoints([Path(checkpoint) for checkpoint in checkpoints])
    _check_architecture(checkpoints[0], classifier.architecture, sets["train"])
    last_layer = last_layer_of(classifier)
    detectors = build_detectors(section.detectors, has_last_layer=last_layer is not None)
    needs = frozenset[str]().union(*(detector.needs for detector in detectors))
    classifier.to("cuda" if section.gpus_per_task else "cpu")

    def outputs(uri: str, needs: frozenset[str]) -> NetworkOutputs:
        return extract(classifier, ImageSet(uri).read(), batch_size=section.batch_size, needs=needs, where=uri)

    # No detector fits on perturbed logits of the training set, and they cost four passes.
    train, test = outputs(sets["train"], needs - {"perturbed_logits"}), outputs(sets["test"], needs)
    evaluation = evaluate_checkpoint(
        train,
        test,
        {key: outputs(uri, needs) for key, uri in sets["ood"].items()},
        last_layer,
        detectors,
    )
    agreement = None
    if agreement_on is not None:
        synthetic = outputs(agreement_on, frozenset())
        agrees = (synthetic.logits.argmax(1) == synthetic.labels).double()
        classes = range(len(classifier.architecture.class_names))
        agreement = {
            "mean": agrees.mean().item(),
            "by_class": [torch.nan_to_num(agrees[synthetic.labels == c].mean()).item() for c in classes],
        }
    storage = Folder(str(folder))
    name = f"{arm}-seed{seed}"
    buffer = io.BytesIO()
    evaluation.scores.to_parquet(buffer, index=False)
    storage.write_bytes(f"{name}.parquet", buffer.getvalue())
    part = {
        "metrics": evaluation.metrics.to_dict(orient="records"),
        "id_accuracy": id_accuracy(test),
        "agreement": agreement,
    }
    storage.write_bytes(f"{name}.json", json.dumps(part).encode())  # last: it commits the part


def _measure_memorisation(synthetic: str, train: str, val: str, section: EvaluateConfig) -> dict[str, Any]:
    """Runs in a Ray task."""
    from sio_ray.quality.memorisation import memorisation

    limit_threads(section.cpus_per_task)
    synthetic_set, train_set = ImageSet(synthetic), ImageSet(train)
    measured = memorisation(
        synthetic_set.read(limit=_MAX_MEMORISATION_IMAGES).images, train_set.read().images, ImageSet(val).read().images
    )
    return {"num_synthetic": len(synthetic_set), "num_real": len(train_set), **asdict(measured)}


def _check_architecture(checkpoint: str, architecture: Any, train: str) -> None:
    info = ImageSet(train).info
    if not architecture.suits(info.class_names, info.image_shape):
        raise CheckpointError(
            f"the checkpoint {checkpoint} knows classes {list(architecture.class_names)} of pictures "
            f"{architecture.image_shape}, the ID set has {list(info.class_names)} of {info.image_shape}; "
            "evaluate it on the set that it was trained for."
        )
