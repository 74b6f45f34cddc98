"""Stage `generate`: a synthetic image set drawn by a pool of Ray actors."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sio_ray.cluster import connect
from sio_ray.config import Config
from sio_ray.errors import GenerationError, ImageSetError, StageError
from sio_ray.generate.plan import Plan
from sio_ray.generate.sampler import PipelineSampler, load_pipeline
from sio_ray.imageset import ImageSetInfo, Manifest
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.storage import Folder
from sio_ray.provenance import versions
from sio_ray.stages.layout import fit_generator_place, generate_place
from sio_ray.stages.prepare import PreparedSets
from sio_ray.stages.record import Outcome, require, run_once

#: Written first: what every shard of the set was drawn with.
PLAN_NAME = "plan.json"


def generate(config: Config) -> Outcome:
    """Draw `synthetic_ratio` times as many images as the real training set has, under `images`.

    Raises:
        StageError: an earlier stage has not run, or the set was begun with other versions or another device kind.
        CheckpointError: the generator cannot be loaded, or draws other classes or sizes.
        GenerationError: shards failed; all others are kept.
        ResourceError: the cluster fits no actor.
    """
    place = generate_place(config)
    return run_once(
        "generate",
        place.folder,
        place.identity,
        config,
        lambda folder: _work(config, folder),
        outputs=[f"images/{MANIFEST_NAME}"],
    )


def _work(config: Config, folder: Path) -> dict[str, Any]:
    section = config.generate
    train_set = PreparedSets(config, "generate").open("id/train")
    generator = section.generator or _fitted_generator(config)
    _check_generator(generator, train_set.info)
    plan = Plan(
        num_images=max(1, round(section.synthetic_ratio * len(train_set))),
        num_classes=train_set.info.num_classes,
        images_per_shard=section.images_per_shard,
        sampler_batch_size=section.sampler_batch_size,
        base_seed=section.base_seed,
    )
    device = "cuda" if section.gpus_per_actor else "cpu"
    drawn_with = {**section.identity(), "generator": str(generator), "device": device, "versions": versions()}
    info = train_set.info.model_copy(update={"provenance": {"source": "synthetic", **drawn_with}})
    images = Folder(str(folder / "images"))
    _begin(images, drawn_with)
    if not images.exists(MANIFEST_NAME):
        _draw(config, plan, info, images, generator, device)
    manifest = Manifest.read(images)
    return {
        "num_images": manifest.num_images,
        "num_shards": len(manifest.shards),
        "num_bytes": manifest.num_bytes,
        "content_id": manifest.content_id,
    }


def _draw(config: Config, plan: Plan, info: ImageSetInfo, images: Folder, generator: Path, device: str) -> None:
    from sio_ray.generate.pool import PoolSize, draw_missing_shards

    section = config.generate
    connect(config.cluster)
    entries = draw_missing_shards(
        partial(PipelineSampler, str(generator), section, device),
        plan,
        info,
        images,
        PoolSize(section.num_actors, section.threads_per_actor, section.gpus_per_actor),
        max_failures_per_shard=section.max_failures_per_shard,
    )
    manifest = Manifest(info=info, num_images=plan.num_images, class_counts=plan.class_counts(), shards=tuple(entries))
    drawn = sum(entry.num_images for entry in entries)
    if drawn != plan.num_images:
        raise GenerationError(f"{drawn} images were drawn, the plan has {plan.num_images}; this is a bug, report it.")
    manifest.write(images)


def _fitted_generator(config: Config) -> Path:
    folder = fit_generator_place(config).folder
    require(folder, "fit-generator", "generate")
    return folder / "model"


def _check_generator(generator: Path, info: ImageSetInfo) -> None:
    unet = load_pipeline(generator).unet
    classes = int(unet.config.num_class_embeds) - 1
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    if (classes, unet.config.in_channels, height, width) != (info.num_classes, *info.image_shape):
        raise ImageSetError(
            f"the generator {generator} draws {classes} classes of {unet.config.in_channels}x{height}x{width}, "
            f"the training set has {info.num_classes} classes of {'x'.join(map(str, info.image_shape))}; "
            "give one fitted to that set."
        )


def _begin(images: Folder, drawn_with: dict[str, Any]) -> None:
    """Write the plan before the first shard, or compare with the one that a run before this wrote."""
    wanted = json.loads(json.dumps(drawn_with))
    if not images.exists(PLAN_NAME):
        images.write_bytes(PLAN_NAME, (json.dumps(wanted, indent=1) + "\n").encode())
        return
    begun = json.loads(images.read_bytes(PLAN_NAME))
    differences = [
        f"{key}: {begun.get(key)!r} -> {wanted.get(key)!r}" for key in wanted if begun.get(key) != wanted.get(key)
    ]
    if differences and not images.exists(MANIFEST_NAME):
        raise StageError(
            f"{images.uri} was begun with other settings ({'; '.join(differences)}), so its bytes would not match; "
            "go back to those, or delete the folder to draw it anew."
        )
