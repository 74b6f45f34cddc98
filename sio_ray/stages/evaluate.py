"""Stage `evaluate`: every network runs once over every image set, and every detector reads what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sio_ray.cluster import check_resources, connect, limit_threads, value_of
from sio_ray.config import Config, EvaluateConfig
from sio_ray.errors import EvaluationError
from sio_ray.evaluation.given import check_detectors, lacks_given, load_given
from sio_ray.evaluation.overlap import Overlap, Pictures, find_overlaps
from sio_ray.evaluation.schedule import Job, run_jobs
from sio_ray.evaluation.scoring import ABOUT, PROJECTION, Parts, SharedSets, describe, project, score
from sio_ray.evaluation.shared_outputs import put_outputs
from sio_ray.evaluation.subjects import EvaluatedSets, Extracted, extract_sets
from sio_ray.imageset import ImageSet
from sio_ray.ood.detectors import DETECTORS, Sizes, build_detectors
from sio_ray.pool.resources import PoolSize
from sio_ray.progress import console, count_progress
from sio_ray.stages.evaluated import LeftOut, evaluated_sets, subjects_of, suited, trained_on
from sio_ray.stages.evaluation_results import METRICS_NAME, SCORES_NAME, Scored, write_results
from sio_ray.stages.layout import evaluate_place
from sio_ray.stages.method_results import join_results
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import Outcome, run_once
from sio_ray.stages.shared_storage import check_shared_storage
from sio_ray.stages.trainings import trainings


def evaluate(config: Config) -> Outcome:
    """Score all test sets with every network and detector; write `metrics.json`, `scores.parquet` and OpenOOD's CSVs.

    Where methods are given, every training that they need is evaluated by itself, and then joined into one table.

    Raises:
        StageError: an earlier stage has not run for this config.
        CheckpointError: a checkpoint is broken or of another architecture.
        ConfigError: an unknown detector, or one that reads what a network does not have.
        EvaluationError: scores or metrics cannot be computed, or test images were trained on.
    """
    work = partial(_work_by_methods if config.methods else _work, config)
    return _evaluate(config, work, "evaluate")


def _evaluate(config: Config, work: Callable[[Path], dict[str, Any]], label: str) -> Outcome:
    place = evaluate_place(config)
    outputs = [METRICS_NAME, SCORES_NAME]
    outcome = run_once("evaluate", place.folder, place.identity, config, work, outputs=outputs, label=label)
    shared = outcome.result.get("overlaps") if outcome.reused and config.evaluate.on_overlap == "stop" else None
    if shared:  # found when they were to be warned of
        first = shared[0]
        raise _overlapping(f"{first['num_images']:,} images of {first['ood_set']} are in {first['other_set']} too")
    return outcome


def _work_by_methods(config: Config, folder: Path) -> dict[str, Any]:
    parts = []
    for training in trainings(config):
        work = partial(_work, training.config)
        parts.append((training, _evaluate(training.config, work, f"evaluate {training.name}").output))
    return join_results(parts, folder)


def _work(config: Config, folder: Path) -> dict[str, Any]:
    section = config.evaluate
    connect(config.cluster)
    check_shared_storage(config, "evaluate")
    check_resources("evaluate", num_cpus=section.cpus_per_task, num_gpus=section.gpus_per_task)
    extraction: dict[str, Any] = {}
    overlaps: list[Overlap] | None = None  # where only features are given, nobody can look
    quality: dict[str, Any] = {}
    if section.outputs:
        scored = _given(section)
    else:
        prepared = PreparedSets(config, "evaluate")
        sets = evaluated_sets(config, prepared)
        subjects = subjects_of(config, sets)
        extracted, cost = extract_sets(subjects, sets, section, config.cluster)
        if cost.num_images:  # otherwise all was there
            extraction = {"seconds": cost.wall_s, **asdict(cost)}
        overlaps = _check_overlaps(extracted[0], trained_on(config, prepared), section)
        scored = [
            Scored(
                each.subject.arm,
                each.subject.seed,
                tuple(detector.name for detector in each.subject.detectors),
                each.share,
                each.share_synthetic,
            )
            for each in extracted
        ]
        if sets.synthetic is not None:
            quality = _measure_memorisation(sets, section)
    _score_all(scored, section, folder)
    return write_results(scored, folder, quality, extraction, overlaps)


def _given(section: EvaluateConfig) -> list[Scored]:
    """Somebody else's features and logits; read again when their turn comes, as all together may be large."""
    scored = []
    left_out = LeftOut()
    for arm, folders in section.outputs.items():
        for seed, uri in enumerate(folders):
            sets = load_given(uri)
            has_last_layer = sets.last_layer is not None
            detectors = build_detectors(
                list(DETECTORS) if section.detectors == ("all",) else section.detectors, section.detector_options
            )
            if section.detectors == ("all",):
                lacks = {each.name: lacks_given(each, has_last_layer=has_last_layer) for each in detectors}
                left_out.lacking({name: need for name, need in lacks.items() if need is not None})
                detectors = [each for each in detectors if lacks[each.name] is None]
            check_detectors(detectors, has_last_layer=has_last_layer)
            names = [detector.name for detector in suited(detectors, Sizes.of(sets.train), section, left_out)]
            scored.append(Scored(arm, seed, tuple(names), partial(_share_given, uri, section)))
    left_out.say()
    return scored


def _share_given(uri: str, section: EvaluateConfig) -> SharedSets:
    sets = load_given(uri)
    shifted = sets.shifted if section.full_spectrum else {}
    return SharedSets(
        train=put_outputs(sets.train),
        val=put_outputs(sets.val),
        test=put_outputs(sets.test),
        ood={key: put_outputs(outputs) for key, outputs in sets.ood.items()},
        val_ood={key: put_outputs(outputs) for key, outputs in sets.val_ood.items()},
        shifted={key: put_outputs(outputs) for key, outputs in shifted.items()},
        last_layer=sets.last_layer,
    )


def _check_overlaps(extracted: Extracted, others: Mapping[str, Pictures], section: EvaluateConfig) -> list[Overlap]:
    """Warn of test images that are trained or tuned on, or stop.

    Raises:
        EvaluationError: there are some, and the config says stop.
    """
    subject, sets = extracted.subject, extracted.sets
    every = {"id/train": sets.train, **sets.of_val, **sets.of_test}
    stores = {name: Pictures(uri, subject.store(name, uri)) for name, uri in every.items()}
    tested = {name: stores[name] for name in sets.of_test}
    by_uri = {pictures.image_set: pictures for pictures in stores.values()}
    found = find_overlaps(tested, {name: by_uri.get(each.image_set, each) for name, each in others.items()})
    for overlap in found:
        pairs = ", ".join(f"{mine} is {theirs} there" for mine, theirs in overlap.examples)
        text = f"{overlap.num_images:,} images of {overlap.tested} are in {overlap.other} too (image_id {pairs})"
        if section.on_overlap == "stop":
            raise _overlapping(text)
        console.print(f"  warning: {text}", style="yellow", markup=False, soft_wrap=True)
    return found


def _overlapping(what: str) -> EvaluationError:
    remedy = "leave them out, or set evaluate.on_overlap=warn"
    return EvaluationError(f"{what}; a network that has seen them cannot be judged by them: {remedy}.")


def _score_all(scored: Sequence[Scored], section: EvaluateConfig, folder: Path) -> None:
    """Run the tasks of all networks that have left no part yet."""

    def jobs() -> Iterator[Job]:
        for network in scored:
            parts = network.parts(folder)
            missing = [name for name in network.tasks if not parts.has(name)]
            if missing:
                yield Job(network.name, partial(_prepare, network, missing, section, parts))

    with count_progress("score", sum(len(network.tasks) for network in scored), "detectors") as progress:
        done = sum(network.parts(folder).has(name) for network in scored for name in network.tasks)
        progress.advance(done, is_new=False)
        size = PoolSize(section.num_actors, section.cpus_per_task, section.gpus_per_task)
        run_jobs(jobs(), size, progress)


def _prepare(
    network: Scored, missing: Sequence[str], section: EvaluateConfig, parts: Parts
) -> dict[str, Callable[[], Any]]:
    import ray

    sets = network.share()
    run = {"num_cpus": section.cpus_per_task, "num_gpus": section.gpus_per_task}
    tasks: dict[str, Callable[[], Any]] = {
        name: partial(ray.remote(**run)(score).remote, name, sets, section, parts) for name in missing
    }
    if ABOUT in missing:
        tasks[ABOUT] = partial(ray.remote(num_cpus=1)(describe).remote, sets, network.share_synthetic(), parts)
    if PROJECTION in missing:
        cpus = section.cpus_per_task
        tasks[PROJECTION] = partial(ray.remote(num_cpus=cpus)(project).remote, sets, section, parts)
    return tasks


def _measure_memorisation(sets: EvaluatedSets, section: EvaluateConfig) -> dict[str, Any]:
    """How near synthetic pictures are to training pictures, in a task."""
    import ray

    task = ray.remote(num_cpus=section.cpus_per_task, num_gpus=section.gpus_per_task)(_memorisation)
    measured: dict[str, Any] = value_of(task.remote(sets, section))
    return measured


def _memorisation(sets: EvaluatedSets, section: EvaluateConfig) -> dict[str, Any]:
    """Runs in a Ray task."""
    from sio_ray.quality.memorisation import sampled_memorisation

    assert sets.synthetic is not None, "there is one to measure"
    limit_threads(section.cpus_per_task)
    synthetic, train = ImageSet(sets.synthetic), ImageSet(sets.train)
    device = "cuda" if section.gpus_per_task else "cpu"
    measured, num_compared = sampled_memorisation(synthetic, train, ImageSet(sets.val), device)
    sizes = {"num_synthetic": len(synthetic), "num_real": len(train), "num_compared": num_compared}
    return {**sizes, **asdict(measured)}
