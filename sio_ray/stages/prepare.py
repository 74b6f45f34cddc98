"""Stage `prepare`: real images from their source into image sets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sio_ray.cluster import connect, limit_threads, our_cause
from sio_ray.config import Config
from sio_ray.datasets import load_source
from sio_ray.datasets.source import FileSet, PictureSet
from sio_ray.datasets.writing import ShardTask, WrittenShard, commit, shard_tasks, write_shard
from sio_ray.errors import ResourceError
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.storage import Folder
from sio_ray.progress import CountProgress, console, count_progress
from sio_ray.stages.layout import prepare_place
from sio_ray.stages.record import Outcome, read_record, run_once
from sio_ray.stages.shared_storage import check_shared_storage

#: Sets of so many picture files are decoded by Ray's workers; starting those takes longer than fewer files do.
_MIN_FILES_FOR_RAY = 20_000

#: So many of the skipped pictures are named on the console; the record has all.
_NUM_SKIPPED_SHOWN = 3


def prepare(config: Config) -> Outcome:
    """Write every real image set of the config's source; run again, it writes only the shards that are missing.

    The training set is written in a random order, drawn from `prepare.seed`: training that streams shuffles within a
    window, so of a set sorted by class it would see batches of few classes.

    Raises:
        ConfigError: a field does not fit the source.
        ImageSetError: the source's pictures cannot be used.
        ResourceError: the output folder cannot be written, or a file cannot be downloaded.
    """
    place = prepare_place(config)
    manifests: list[str] = []  # filled by the work, as the sets are known only then

    def work(folder: Path) -> dict[str, Any]:
        source = load_source(config.prepare)
        sets = source.sets()
        counts, skipped = {}, {}
        with count_progress("writing", sum(len(pictures) for _, pictures in sets), "images") as progress:
            for name, pictures in sets:
                finished = read_record(folder)
                if finished is not None:  # by another driver since this one began; its sets may be in use
                    manifests[:] = finished.outputs
                    return finished.result
                class_names = source.class_names if name.startswith("id/") else ()
                counts[name], left_out = _write_set(config, folder, name, pictures, class_names, progress)
                if left_out:
                    skipped[name] = left_out
                manifests.append(f"{name}/{MANIFEST_NAME}")
        _say_skipped(skipped)
        return {"num_images": counts, "class_names": list(source.class_names), "skipped": skipped}

    return run_once("prepare", place.folder, place.identity, config, work, outputs=manifests)


def _write_set(
    config: Config,
    folder: Path,
    name: str,
    pictures: PictureSet,
    class_names: tuple[str, ...],
    progress: CountProgress,
) -> tuple[int, list[str]]:
    """Write one set; returns its number of images, and the paths of those that were skipped."""
    channels, height, width = pictures.image_shape
    info = ImageSetInfo(
        class_names=class_names,
        height_px=height,
        width_px=width,
        channels=channels,
        provenance={"set": name, **config.prepare.identity()},
    )
    target = Folder(str(folder / name))
    target.delete(MANIFEST_NAME)  # the source may have changed since; shards that still fit it are kept
    tasks = shard_tasks(target, info, pictures, skips_corrupt=config.prepare.on_corrupt == "skip")
    on_cluster = isinstance(pictures, FileSet) and len(pictures) >= _MIN_FILES_FOR_RAY
    written: dict[str, WrittenShard] = {}
    for shard in _write_on_cluster(tasks, config) if on_cluster else map(write_shard, tasks):
        written[shard.entry.name] = shard
        progress.advance(shard.entry.num_images + len(shard.skipped), note=name, is_new=shard.is_new)
    in_order = [written[task.name] for task in tasks]
    return commit(tasks, in_order).num_images, [path for shard in in_order for path in shard.skipped]


def _write_on_cluster(tasks: Sequence[ShardTask], config: Config) -> Iterator[WrittenShard]:
    """Write shards on all cores of a Ray cluster, as they come; a shard whose worker dies is written again.

    Raises:
        ImageSetError: a picture does not decode, and none is to be skipped.
        ResourceError: a folder cannot be written, or workers died several times.
    """
    import ray

    connect(config.cluster)
    check_shared_storage(config, "prepare")
    remote = ray.remote(num_cpus=1, max_retries=3)(_write_on_worker)
    waiting = iter(tasks)
    # A few more than there are cores, so that none waits for the driver, and the driver holds no more.
    running = {
        remote.remote(task): task for task in itertools.islice(waiting, 2 * int(ray.cluster_resources().get("CPU", 1)))
    }
    try:
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(done)
            running |= {remote.remote(further): further for further in itertools.islice(waiting, 1)}
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                if ours := our_cause(error):
                    raise ours from None
                raise ResourceError(
                    f"{task.folder.join(task.name)} could not be written ({str(error).splitlines()[0].rstrip('.')}); "
                    "look for missing memory or a dead node, then run the same command again: finished shards are kept."
                ) from error
    finally:
        for ref in running:
            ray.cancel(ref)


def _write_on_worker(task: ShardTask) -> WrittenShard:
    limit_threads(1)
    return write_shard(task, num_threads=1)


def _say_skipped(skipped: dict[str, list[str]]) -> None:
    paths = [path for some in skipped.values() for path in some]
    if paths:
        shown = ", ".join(paths[:_NUM_SKIPPED_SHOWN]) + ", ..." * (len(paths) > _NUM_SKIPPED_SHOWN)
        console.print(
            f"  pictures that do not decode were skipped: {len(paths):,} ({shown}); all are listed in stage.json",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
