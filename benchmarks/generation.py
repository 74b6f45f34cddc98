"""Speed of generation, side by side on one machine in one run: ours against what one would write instead.

python benchmarks/generation.py --json
python benchmarks/generation.py --only one_actor pool

- one_actor: one actor, which also encodes and writes, against the plain diffusers loop over the same batches, which
  does neither; same threads.
- pool: two actors of one thread each against one process of two threads that samples, encodes and writes in turn.
- ray_data: the same two actors against Ray Data's `map_batches` on a pool of two and `write_parquet`.
- scheduling: 10,000 empty shards on 64 actors.
- gpu: our UNet at 32 px and a DiT-XL/2 at 256 px, randomly initialised, against the plain loop; where there is one.

Both sides of a comparison run in turn, several times; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sio_ray.config import ClusterConfig, FitGeneratorConfig, GenerateConfig
from sio_ray.generate.actors import DRAWING
from sio_ray.generate.notes import DrawnShard, Seconds
from sio_ray.imageset import ImageSetInfo, ShardEntry
from sio_ray.imageset.storage import Folder
from sio_ray.pool.messages import News, UnitDone
from sio_ray.pool.pool import Pool
from sio_ray.pool.resources import Patience, PoolSize

INFO = ImageSetInfo(class_names=tuple("0123456789"), height_px=32, width_px=32, channels=3)
BATCH, SHARD, STEPS = 32, 64, 8


def save_unet(folder: Path) -> None:
    """Our UNet at 32 px, randomly initialised."""
    import torch
    from diffusers import EDMEulerScheduler

    from sio_ray.diffusion.denoiser import build_unet
    from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline

    torch.manual_seed(0)
    unet = build_unet(FitGeneratorConfig(block_out_channels=(16, 32, 64), layers_per_block=2), INFO)
    pipeline = ClassConditionalEDMPipeline(unet.eval(), EDMEulerScheduler(sigma_data=0.5))
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def job_of(model: Path, output: Path, num_images: int, threads: int) -> Any:
    """The job that `generate` would make."""
    from sio_ray.generate.generator import find_generator
    from sio_ray.generate.job import Job, plan_of

    section = GenerateConfig(
        generator=str(model),
        num_images=num_images,
        num_inference_steps=STEPS,
        sampler_batch_size=BATCH,
        images_per_shard=SHARD,
        threads_per_actor=threads,
    )
    generator = find_generator(str(model))
    plan, info = plan_of(section, generator, None)
    return Job(section, plan, info, generator, Folder(str(output)))


class Stopwatch:
    """Times shards from the first to the last, so that neither side pays for starting its actors."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.seconds = Seconds()

    def hear(self, news: News[DrawnShard]) -> None:
        """Take the time of a shard that is done."""
        if isinstance(news, UnitDone):
            self.times_s.append(time.perf_counter())
            self.seconds += news.result.seconds

    def shards_per_s(self, skip: int) -> float:
        """Of all shards after the first `skip`, which warm up."""
        return (len(self.times_s) - skip) / (self.times_s[-1] - self.times_s[skip - 1])


def run_pool(job: Any, num_actors: int, threads: int) -> tuple[float, Seconds]:
    """Images per second of our pool, and where the actors' time went."""
    watch = Stopwatch()
    size = PoolSize(num_actors, threads, 0)
    pool = Pool(DRAWING, job.make_writer, size, Patience(), adopt=job.adopt, on_news=watch.hear)
    pool.run(range(job.plan.num_shards))
    return watch.shards_per_s(num_actors) * SHARD, watch.seconds


def plain_loop(model: str, num_batches: int, threads: int, output: str | None) -> None:
    """What one would write instead, in a process of its own: sample, and encode and write in turn if asked to."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
    from sio_ray.imageset.shard import encode_shard

    torch.set_num_threads(threads)
    pipeline = ClassConditionalEDMPipeline.from_pretrained(model, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    seconds, start_s = {"sample_s": 0.0, "encode_and_write_s": 0.0}, 0.0
    kept: list[Any] = []
    for k in range(num_batches + 1):
        if k == 1:  # the first one warms up
            seconds, start_s = dict.fromkeys(seconds, 0.0), time.perf_counter()
        labels = [(k * BATCH + i) % 10 for i in range(BATCH)]
        begin_s = time.perf_counter()
        generators = [torch.Generator().manual_seed(k * BATCH + i) for i in range(BATCH)]
        pictures = pipeline(class_labels=labels, generator=generators, num_inference_steps=STEPS)
        images = ((pictures + 1) * 127.5).round().to(torch.uint8).numpy()
        seconds["sample_s"] += time.perf_counter() - begin_s
        begin_s = time.perf_counter()
        kept.append(images)
        if output and len(kept) == SHARD // BATCH:
            together = np.concatenate(kept)
            ids = np.arange(len(together), dtype=np.int64)
            Path(output, f"{k}.parquet").write_bytes(encode_shard(INFO, together, ids % 10, ids))
            kept.clear()
        seconds["encode_and_write_s"] += time.perf_counter() - begin_s
    elapsed_s = time.perf_counter() - start_s
    print(json.dumps({"images_per_s": num_batches * BATCH / elapsed_s, "seconds": seconds}))


def run_plain_loop(model: Path, num_batches: int, threads: int, output: Path | None) -> dict[str, Any]:
    """The plain loop in a fresh process."""
    call = f"generation.plain_loop({str(model)!r}, {num_batches}, {threads}, {str(output) if output else None!r})"
    command = [sys.executable, "-c", f"import generation; {call}"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, env=os.environ
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(ours: Callable[[], tuple[float, Any]], theirs: Callable[[], tuple[float, Any]], repeats: int) -> Any:
    """Both in turn, `repeats` times."""
    both: dict[str, list[tuple[float, Any]]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        both["theirs"].append(theirs())
        both["ours"].append(ours())
    speeds = {side: statistics.median(speed for speed, _ in runs) for side, runs in both.items()}
    # Of runs next to each other, as a shared machine is faster at some times than at others.
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(both["ours"], both["theirs"], strict=True)]
    return {
        "ours_images_per_s": round(speeds["ours"], 2),
        "theirs_images_per_s": round(speeds["theirs"], 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios_of_each_turn": [round(ratio, 3) for ratio in ratios],
        "ours_seconds": both["ours"][-1][1],
        "theirs_seconds": both["theirs"][-1][1],
    }


def one_actor(model: Path, folder: Path, num_images: int, repeats: int) -> Any:
    """One actor against the plain loop that neither encodes nor writes."""

    def ours() -> tuple[float, Any]:
        speed, seconds = run_pool(job_of(model, _fresh(folder), num_images, 1), 1, 1)
        return speed, seconds.model_dump()

    def theirs() -> tuple[float, Any]:
        result = run_plain_loop(model, num_images // BATCH, 1, None)
        return result["images_per_s"], result["seconds"]

    return compare(ours, theirs, repeats)


def pool(model: Path, folder: Path, num_images: int, repeats: int) -> Any:
    """Two actors of one thread against one process of two threads."""

    def ours() -> tuple[float, Any]:
        speed, seconds = run_pool(job_of(model, _fresh(folder), num_images, 1), 2, 1)
        return speed, seconds.model_dump()

    def theirs() -> tuple[float, Any]:
        output = _fresh(folder)
        output.mkdir()
        result = run_plain_loop(model, num_images // BATCH, 2, output)
        return result["images_per_s"], result["seconds"]

    return compare(ours, theirs, repeats)


class RayDataSampler:
    """The same sampler as a stage of Ray Data."""

    def __init__(self, job: Any) -> None:
        import torch

        torch.set_num_threads(1)
        self._job, self._sampler = job, job.make_sampler()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Image ids in, encoded pictures out."""
        from sio_ray.imageset.pictures import encode_png

        ids = batch["id"]
        plan = self._job.plan
        pictures = self._sampler.sample(plan.labels(ids), [plan.seed(int(i)) for i in ids])
        return {
            "image": [encode_png(p) for p in pictures],
            "label": plan.labels(ids),
            "image_id": ids,
            "done_s": np.full(len(ids), time.time()),
        }


def ray_data(model: Path, folder: Path, num_images: int, repeats: int) -> Any:
    """Two actors against Ray Data with a pool of two."""
    import pyarrow.parquet as pq
    import ray

    def theirs() -> tuple[float, Any]:
        output = _fresh(folder)
        job = job_of(model, output, num_images, 1)
        data = ray.data.range(num_images, override_num_blocks=num_images // SHARD).map_batches(
            RayDataSampler,
            fn_constructor_args=(job,),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=2),
            num_cpus=1,
        )
        data.write_parquet(str(output))
        done_s = np.sort(np.concatenate([pq.read_table(f)["done_s"].to_numpy() for f in output.glob("*.parquet")]))
        # From the first batch of both actors on, as for ours; the writing of the last block is not counted.
        return (num_images - 2 * BATCH) / (done_s[-1] - done_s[2 * BATCH - 1]), None

    def ours() -> tuple[float, Any]:
        speed, seconds = run_pool(job_of(model, _fresh(folder), num_images, 1), 2, 1)
        return speed, seconds.model_dump()

    ray.data.DataContext.get_current().enable_progress_bars = False
    return compare(ours, theirs, repeats)


class EmptyWriter:
    """Draws nothing and writes nothing."""

    def draw(self, shard_id: int) -> DrawnShard:
        """An entry, as a real one would give."""
        return DrawnShard(shard_id=shard_id, entry=ShardEntry.of(f"part-{shard_id:05d}", 1, b""))


def scheduling(num_shards: int, num_actors: int) -> Any:
    """What the pool itself costs."""
    before_mb = _rss_mb()
    watch = Stopwatch()
    start_s = time.perf_counter()
    drawn = Pool(EmptyWriter, _no_shard, PoolSize(num_actors, 1, 0), Patience(), watch)
    drawn.run(range(num_shards))
    seconds = np.array(watch.times_s) - start_s
    return {
        "num_shards": num_shards,
        "num_actors": num_actors,
        "shards_per_s": round(watch.shards_per_s(num_shards // 2), 1),
        "first_shard_after_s": round(float(seconds[0]), 1),
        "wall_s": round(float(seconds[-1]), 1),
        "driver_rss_mb_before": round(before_mb),
        "driver_rss_mb_after": round(_rss_mb()),
    }


def _no_shard(shard_id: int) -> DrawnShard:
    raise FileNotFoundError(shard_id)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


_count = iter(range(10**6))


def _fresh(folder: Path) -> Path:
    return folder / f"set-{next(_count)}"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="*", choices=["one_actor", "pool", "ray_data", "scheduling", "gpu"])
    parser.add_argument("--images", type=int, default=512, help="of each run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shards", type=int, default=10_000, help="of the scheduling run")
    parser.add_argument("--actors", type=int, default=64, help="of the scheduling run")
    arguments = parser.parse_args()
    chosen = arguments.only or ["one_actor", "pool", "ray_data", "scheduling", "gpu"]

    from sio_ray.cluster import connect
    from sio_ray.provenance import machine, versions

    result: dict[str, Any] = {"machine": machine(), "versions": versions()}
    connect(ClusterConfig(num_cpus=max(arguments.actors, 4)))
    with tempfile.TemporaryDirectory(prefix="sio_ray_generation_") as temporary:
        folder = Path(temporary)
        save_unet(folder / "model")
        for name in ("one_actor", "pool", "ray_data"):
            if name in chosen:
                measure = {"one_actor": one_actor, "pool": pool, "ray_data": ray_data}[name]
                result[name] = measure(folder / "model", folder, arguments.images, arguments.repeats)
                print(f"{name}: ratio {result[name]['ratio']}", file=sys.stderr)
        if "scheduling" in chosen:
            result["scheduling"] = scheduling(arguments.shards, arguments.actors)
            print(f"scheduling: {result['scheduling']}", file=sys.stderr)
        if "gpu" in chosen:
            from generation_gpu import measure_gpu

            result["gpu"] = measure_gpu(folder)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
