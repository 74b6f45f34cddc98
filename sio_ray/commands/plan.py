"""`sio-ray plan`: what a generation will take, before it is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from rich.table import Table

from sio_ray.cluster import connect
from sio_ray.config import Config
from sio_ray.errors import CheckpointError, ResourceError
from sio_ray.generate.calibrate import Calibration
from sio_ray.generate.job import Job, plan_of
from sio_ray.generate.plan import Plan
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.storage import Folder
from sio_ray.progress import console
from sio_ray.stages.generate import make_job
from sio_ray.stages.layout import generated_set_uri

#: With fewer shards for each actor, the last ones leave too many actors idle.
_SHARDS_PER_ACTOR = 8

#: Batch sizes that are measured beside the config's own, up to the first that is too large or of no use.
_SIZES = [2**k for k in range(13)]


@dataclass(frozen=True)
class Estimate:
    """What a generation will take.

    Attributes:
        images: where the set goes.
        num_images: of the whole set.
        num_classes: C.
        images_per_class: fewest and most.
        image_shape: (C, H, W).
        num_shards: files.
        images_per_shard: rows of every shard but the last.
        num_sampler_calls: of full batches, over all shards.
        padding_share: share of the drawn images that only fill batches up.
        raw_bytes: of all pixels.
        num_bytes: of all shards, by the PNGs that were measured; None without calibration.
        device: what was measured on; None without calibration.
        num_actors: that this cluster holds; None without calibration.
        images_per_s: of all actors together, each as fast as the one that was measured; None without calibration.
        wall_s: for the whole set; None without calibration.
        gpu_hours: likewise; 0 on CPUs.
        calibrations: every batch size that was measured.
        few_shards: what to change where the last shards leave actors idle; None where they do not, or where neither
            the config nor calibration says how many actors there are.
    """

    images: str
    num_images: int
    num_classes: int
    images_per_class: tuple[int, int]
    image_shape: tuple[int, int, int]
    num_shards: int
    images_per_shard: int
    num_sampler_calls: int
    padding_share: float
    raw_bytes: int
    num_bytes: int | None = None
    device: str | None = None
    num_actors: int | None = None
    images_per_s: float | None = None
    wall_s: float | None = None
    gpu_hours: float | None = None
    calibrations: tuple[Calibration, ...] = ()
    few_shards: str | None = None


def make_plan(config: Config, *, calibrate: bool) -> Estimate:
    """Work out what `generate` will do, and measure how long that takes if asked to.

    Args:
        config: whole.
        calibrate: draw a few batches on one actor of the cluster.

    Raises:
        SioRayError: as `generate` would raise before its first shard.
    """
    try:
        job = make_job(config)
    except CheckpointError as error:
        # A set that stands alone may say itself what a generator that is not here will draw.
        section = config.generate
        if calibrate or not (section.stands_alone and section.num_classes and section.image_size_px):
            raise
        console.print(f"the generator was not looked at: {error}", style="yellow", markup=False, soft_wrap=True)
        return _estimate(*plan_of(section, None, None), Folder(generated_set_uri(config)), section.num_actors)
    estimate = _estimate(job.plan, job.info, job.folder, config.generate.num_actors)
    return _calibrated(estimate, config, job) if calibrate else estimate


def _estimate(plan: Plan, info: ImageSetInfo, folder: Folder, num_actors: int) -> Estimate:
    counts = plan.class_counts()
    full, rest = divmod(plan.num_images, plan.images_per_shard)
    calls = full * -(-plan.images_per_shard // plan.sampler_batch_size) + -(-rest // plan.sampler_batch_size)
    channels, height, width = info.image_shape
    return Estimate(
        images=folder.safe_uri,
        num_images=plan.num_images,
        num_classes=plan.num_classes,
        images_per_class=(min(counts), max(counts)),
        image_shape=info.image_shape,
        num_shards=plan.num_shards,
        images_per_shard=plan.images_per_shard,
        num_sampler_calls=calls,
        padding_share=1 - plan.num_images / (calls * plan.sampler_batch_size),
        raw_bytes=plan.num_images * channels * height * width,
        few_shards=_few_shards(plan, num_actors),
    )


def fitting_images_per_shard(plan: Plan, num_actors: int) -> int:
    """The most images per shard, up to the plan's own, that give each actor enough shards; whole sampler batches."""
    fitting = plan.num_images // (_SHARDS_PER_ACTOR * num_actors)
    batches = max(1, fitting // plan.sampler_batch_size)
    return min(plan.images_per_shard, batches * plan.sampler_batch_size)


def _few_shards(plan: Plan, num_actors: int) -> str | None:
    if plan.num_shards >= _SHARDS_PER_ACTOR * num_actors or num_actors == 1:
        return None
    idle = 1 - plan.num_shards / (-(-plan.num_shards // num_actors) * num_actors)
    fitting = fitting_images_per_shard(plan, num_actors)
    remedy = (
        f"set generate.images_per_shard={fitting} before the first shard is drawn"
        if fitting < plan.images_per_shard
        else "a shard is one sampler batch already, so give fewer actors, or a smaller generate.sampler_batch_size"
    )
    return (
        f"{plan.num_shards:,} shards for {num_actors:,} actors leave at least {idle:.0%} of their time unused, as the "
        f"last ones end apart; {remedy}."
    )


def _calibrated(estimate: Estimate, config: Config, job: Job) -> Estimate:
    from sio_ray.generate.actors import calibrate_on_actor, pool_size

    section, plan = config.generate, job.plan
    connect(config.cluster)
    sizes = sorted({*_SIZES, section.sampler_batch_size})
    size = pool_size(section)
    device, calibrations = calibrate_on_actor(job.make_sampler, plan, size, sizes)
    own = next((c for c in calibrations if c.sampler_batch_size == section.sampler_batch_size), None)
    if own is None or own.images_per_s is None or own.bytes_per_image is None:
        fits = [c.sampler_batch_size for c in calibrations if c.images_per_s is not None]
        remedy = f"{fits[-1]} is the largest that fits" if fits else "not even 1 fits; use a smaller generator"
        raise ResourceError(
            f"generate.sampler_batch_size={section.sampler_batch_size} does not fit {device}; {remedy}."
        )
    num_actors = min(size.wanted(), plan.num_shards)
    images_per_s = num_actors * own.images_per_s * (1 - estimate.padding_share)
    wall_s = plan.num_images / images_per_s
    return replace(
        estimate,
        num_bytes=round(plan.num_images * own.bytes_per_image),
        device=device,
        num_actors=num_actors,
        images_per_s=images_per_s,
        wall_s=wall_s,
        gpu_hours=wall_s * num_actors * section.gpus_per_actor / 3600,
        calibrations=tuple(calibrations),
        few_shards=_few_shards(plan, size.wanted()),
    )


def print_plan(estimate: Estimate) -> None:
    """Say it in words, for people."""
    few, many = estimate.images_per_class
    shape = "x".join(map(str, estimate.image_shape[1:])) + (" grey" if estimate.image_shape[0] == 1 else " RGB")
    rows = [
        ("images", f"{estimate.num_images:,} of {shape}"),
        ("classes", f"{estimate.num_classes:,}, {few:,} images each" + (f" to {many:,}" if many > few else "")),
        ("shards", f"{estimate.num_shards:,} of {estimate.images_per_shard:,} images"),
        (
            "sampler calls",
            f"{estimate.num_sampler_calls:,}, {estimate.padding_share:.1%} of their images fill up batches",
        ),
    ]
    if estimate.num_bytes is None:
        rows.append(("size", f"up to {_gigabytes(estimate.raw_bytes)} (raw pixels; PNG is smaller)"))
    else:
        rows.append(
            ("size", f"about {_gigabytes(estimate.num_bytes)} ({_gigabytes(estimate.raw_bytes)} of raw pixels)")
        )
    if estimate.wall_s is not None:
        took = str(timedelta(seconds=round(estimate.wall_s)))
        gpus = f", {estimate.gpu_hours:,.1f} GPU-hours" if estimate.gpu_hours else ""
        rows.append(
            ("speed", f"{estimate.images_per_s:,.0f} images/s with {estimate.num_actors} actors on {estimate.device}")
        )
        rows.append(("time", f"about {took}{gpus}; curation would add what it rejects"))
    rows.append(("goes to", estimate.images))
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(f"[bold]{name}[/bold]", value)
    console.print(table)
    if estimate.few_shards:
        console.print(estimate.few_shards, style="yellow", markup=False, soft_wrap=True)
    if estimate.calibrations:
        console.print(_calibration_table(estimate.calibrations))
    else:
        console.print("add --calibrate to measure time and size on this cluster", style="dim")


def _calibration_table(calibrations: tuple[Calibration, ...]) -> Table:
    best = max(c.images_per_s or 0.0 for c in calibrations)
    table = Table("sampler batch", "images/s of one actor", "GPU memory", box=None, pad_edge=False, header_style="bold")
    for c in calibrations:
        if c.images_per_s is None:
            table.add_row(f"{c.sampler_batch_size:,}", "does not fit", "")
            continue
        memory = "" if c.peak_gpu_bytes is None else f"{c.peak_gpu_bytes / 2**30:.1f} GiB"
        mark = "  (fastest)" if c.images_per_s == best else ""
        table.add_row(f"{c.sampler_batch_size:,}", f"{c.images_per_s:,.1f}{mark}", memory)
    return table


def _gigabytes(num_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def as_json(estimate: Estimate) -> dict[str, Any]:
    """JSON values of an estimate."""
    return asdict(estimate)
