"""Stage `generate`: a synthetic image set drawn by a pool of Ray actors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sio_ray.cluster import connect, is_ours
from sio_ray.config import Config, GenerateConfig
from sio_ray.errors import GenerationError
from sio_ray.generate.generator import check_generator, find_generator
from sio_ray.generate.job import Job, check_sources, plan_of
from sio_ray.generate.notes import DrawnShard, Seconds, delete_notes, survey
from sio_ray.imageset import Manifest
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.storage import Folder
from sio_ray.pool.resources import Patience
from sio_ray.progress import console, count_progress
from sio_ray.stages.layout import fit_generator_place, fitted_generator, generate_place, generated_set_uri
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import Outcome, forget, read_record, require, run_once
from sio_ray.stages.shared_storage import check_shared_storage


def generate(config: Config) -> Outcome:
    """Draw the synthetic image set, as large as `num_images` or `synthetic_ratio` says.

    Raises:
        StageError: an earlier stage has not run, or the set was begun with other settings.
        ConfigError: the config does not fit the generator or the GPU.
        CheckpointError: the generator cannot be loaded.
        GenerationError: shards failed; all others are kept.
        ResourceError: the cluster fits no actor.
    """
    place = generate_place(config)
    record, folder = read_record(place.folder), Folder(generated_set_uri(config))
    if record is not None and _is_at(folder, record.result["content_id"]):
        check_sources(config.generate, folder)
    else:
        forget(place.folder)
    return run_once("generate", place.folder, place.identity, config, lambda folder: _work(config))


def _is_at(folder: Folder, content_id: str) -> bool:
    """Whether a folder has the set of this content; into `generate.output` another config may have drawn since."""
    return folder.exists(MANIFEST_NAME) and Manifest.read(folder).content_id == content_id


def make_job(config: Config) -> Job:
    """Find the generator and what to draw from it, and see that the two fit.

    Raises:
        StageError: an earlier stage has not run.
        ConfigError: the config does not fit the generator.
        CheckpointError: there is no generator.
        ImageSetError: the generator draws other classes or sizes than the training set has.
    """
    section = _with_absolute_paths(config.generate)
    train = None if section.stands_alone else PreparedSets(config, "generate").open("id/train").manifest
    generator = find_generator(section.generator or str(_fitted_generator(config)))
    plan, info = plan_of(section, generator, train)
    check_generator(generator, section, info)
    return Job(section, plan, info, generator, Folder(generated_set_uri(config)))


def _with_absolute_paths(section: GenerateConfig) -> GenerateConfig:
    """Workers have another working directory; a generator and a folder are found to be absolute anyway."""
    classifier = section.curation.classifier
    if classifier is None:
        return section
    curation = section.curation.model_copy(update={"classifier": classifier.absolute()})
    return section.model_copy(update={"curation": curation})


def _work(config: Config) -> dict[str, Any]:
    job = make_job(config)
    job.begin()
    seconds = Seconds()
    if not job.folder.exists(MANIFEST_NAME):
        seconds = _draw(config, job)
    delete_notes(job.folder)
    manifest = Manifest.read(job.folder)
    drawn = manifest.num_images + manifest.num_rejected
    rejected = f", {manifest.num_rejected / drawn:.1%} of {drawn:,} rejected" if manifest.num_rejected else ""
    console.print(
        f"  {manifest.num_images:,} images in {len(manifest.shards):,} shards, {manifest.num_bytes / 1e6:,.1f} MB"
        f"{rejected}: {job.folder.safe_uri}",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
    return {
        "images": job.folder.safe_uri,
        "num_images": manifest.num_images,
        "num_shards": len(manifest.shards),
        "num_bytes": manifest.num_bytes,
        "num_rejected": manifest.num_rejected,
        "content_id": manifest.content_id,
        "seconds": seconds.model_dump(),
    }


def _draw(config: Config, job: Job) -> Seconds:
    """Draw what is missing, then commit the set; returns the seconds of all actors together."""
    from sio_ray.generate.actors import DRAWING, pool_size
    from sio_ray.pool.pool import Pool
    from sio_ray.pool.watch import PoolWatch

    section, plan = config.generate, job.plan
    connect(config.cluster)
    check_shared_storage(config, "generate")
    found = survey(job.folder, plan)
    num_there = len(found.noted) + len(found.unnoted)
    if num_there:
        console.print(f"  {num_there} of {plan.num_shards} shards are there already; drawing the others")
    with (
        count_progress(f"drawing {job.folder.name}", plan.num_images, "images") as progress,
        PoolWatch[DrawnShard](
            progress,
            images=lambda drawn: drawn.entry.num_images,
            seconds=lambda drawn: drawn.seconds.by_part,
            labels=lambda shard_id: {"shard": shard_id},
            adopted=found.unnoted,
        ) as watch,
    ):
        progress.advance(sum(drawn.entry.num_images for drawn in found.noted.values()), is_new=False)
        pool = Pool(
            DRAWING,
            job.make_writer,
            pool_size(section),
            _patience(config),
            adopt=job.adopt,
            on_news=watch.hear,
        )
        pool.run(found.missing, found.unnoted)
    if pool.set_aside:
        raise GenerationError(_describe_set_aside(pool.set_aside, job, section.max_failures_per_shard))
    drawn = {**found.noted, **pool.done}
    entries = tuple(drawn[shard_id].entry for shard_id in range(plan.num_shards))
    if sum(entry.num_images for entry in entries) != plan.num_images:
        raise GenerationError(f"the shards of {job.folder.safe_uri} do not hold what the plan says; report this bug.")
    manifest = Manifest(
        info=job.full_info, num_images=plan.num_images, class_counts=plan.class_counts(), shards=entries
    )
    job.folder.sweep()
    manifest.write(job.folder)
    return sum((shard.seconds for shard in drawn.values()), Seconds())


def _patience(config: Config) -> Patience:
    section = config.generate
    limit_gb = section.actor_memory_limit_gb
    return Patience(
        max_failures_per_unit=section.max_failures_per_shard,
        unit_timeout_s=section.shard_timeout_s,
        max_wait_s=0 if is_ours(config.cluster) else section.max_wait_s,
        max_units_per_actor=section.max_shards_per_actor,
        memory_limit_bytes=None if limit_gb is None else int(limit_gb * 1e9),
    )


def _fitted_generator(config: Config) -> Path:
    require(fit_generator_place(config).folder, "fit-generator", "generate")
    return fitted_generator(config)


def _describe_set_aside(set_aside: dict[int, str], job: Job, times: int) -> str:
    plan = job.plan
    first, error = min(set_aside.items())
    labels = sorted({int(label) for shard_id in set_aside for label in plan.labels(plan.places(shard_id))})
    return (
        f"{len(set_aside)} of {plan.num_shards} shards failed {times} times each: "
        f"shards {_shorten(sorted(set_aside))}, labels {_shorten(labels)}; "
        f"the first error (shard {first}): {error.rstrip('.')}. "
        "All other shards are kept; run the same command to retry only these."
    )


def _shorten(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:20]))
    return f"[{shown}]" if len(numbers) <= 20 else f"[{shown}, ... {len(numbers)} in all]"
