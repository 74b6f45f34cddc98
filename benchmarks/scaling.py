"""Hours and cost of drawing a set on 1 to 512 GPUs, and what bucket, driver and manifest then bear.

python benchmarks/scaling.py                      # the tables of docs/scaling.md
python benchmarks/scaling.py --docs               # write them there
python benchmarks/scaling.py --price H100=2.2 --images-per-s H100:imagenet=55   # yours

Speeds follow from counted operations and an assumed share of a GPU's published peak, unless `--images-per-s` has what
`sio-ray plan --calibrate` or `benchmarks/generation.py` measured. Prices are assumptions: the order of magnitude of
list prices on demand in 2026, without discounts, spot or reservations.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from published import build_dit
from torch.utils.flop_counter import FlopCounterMode

from sio_ray.commands.plan import fitting_images_per_shard
from sio_ray.config import load_config
from sio_ray.generate.plan import Plan

DOCUMENT = Path(__file__).parents[1] / "docs" / "scaling.md"
NUM_GPUS = (1, 8, 64, 512)

#: What every run pays before its first shard, beside a model's own `open_s`, and after its last.
START_RAY_S = 10.0
WRITE_LAST_S = 10.0

#: Of one driver with actors that do nothing, by `benchmarks/scheduling.py --only edge` on 2 CPU cores.
MEASURED_CALLS_PER_S = 414.0
#: Of 100,000 shards, by `benchmarks/scheduling.py --only files`.
MEASURED_MANIFEST_BYTES_PER_SHARD = 242.3

#: S3's published rate for one prefix (AWS, "Best practices design patterns: optimizing Amazon S3 performance").
S3_WRITES_PER_S = 3_500

#: pyarrow uploads an object in parts of this size, with a request before and one after them.
PART_BYTES = 10 * 2**20


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        peak_tflops: dense, of the tensor cores in bfloat16, by its data sheet.
        price: of an hour, in dollars; assumed.
        note: what differs.
    """

    peak_tflops: float
    price: float
    note: str = ""


GPUS = {
    "H100": Gpu(989, 3.0),
    "A100": Gpu(312, 1.8),
    "L40S": Gpu(362, 1.5),
    "L4": Gpu(121, 0.7),
    "T4": Gpu(8.1, 0.4, "in float32, as it has no bfloat16"),
}


@dataclass(frozen=True)
class Work:
    """What is drawn.

    Attributes:
        title: for the table.
        preset: whose plan it is; scheduler, steps and guidance are its.
        count_flops: of one pass of the network over one image, and of decoding it.
        utilisation: assumed share of the peak.
        bytes_per_image: of a PNG, assumed.
        open_s: assumed, from the start of an actor to its first shard: imports, weights.
    """

    title: str
    preset: str
    count_flops: Callable[[], tuple[int, int]]
    utilisation: float
    bytes_per_image: int
    open_s: float

    @property
    def flops_per_image(self) -> float:
        """Of all steps, twice with guidance, and the decoder."""
        section = load_config(self.preset).generate
        network, decoder = self.count_flops()
        return network * section.num_inference_steps * (1 if section.guidance_scale == 1 else 2) + decoder

    def images_per_s(self, gpu: Gpu) -> float:
        """Of one GPU, computed."""
        return gpu.peak_tflops * 1e12 * self.utilisation / self.flops_per_image


def _count(network: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        network()
    return int(counter.get_total_flops())


@cache
def count_unet() -> tuple[int, int]:
    """Our UNet of the presets cifar10 and cifar100 at 32 px; needs no decoder."""
    from sio_ray.diffusion.denoiser import build_unet
    from sio_ray.imageset import ImageSetInfo

    info = ImageSetInfo(class_names=tuple("0123456789"), height_px=32, width_px=32, channels=3)
    with torch.device("meta"):
        unet = build_unet(load_config("cifar10").fit_generator, info)
        return _count(lambda: unet(torch.empty(1, 3, 32, 32), torch.empty(1), torch.zeros(1, dtype=torch.long))), 0


@cache
def count_dit() -> tuple[int, int]:
    """Operations of a pass of DiT-XL/2 at 256 px, and of its VAE's decoder.

    A multiplication and an addition are two operations here; the paper's 118.6 Gflops for a pass count them as one.
    """
    with torch.device("meta"):
        dit, vae = build_dit()
        latents = torch.empty(1, 4, 32, 32)
        label = torch.zeros(1, dtype=torch.long)
        network = _count(lambda: dit(latents, timestep=torch.empty(1), class_labels=label))
        return network, _count(lambda: vae.decode(latents))


WORKS = {
    "cifar": Work("CIFAR-10/100, 32 px", "cifar10", count_unet, 0.2, 2_300, 20.0),
    "imagenet": Work("ImageNet-1K, 256 px", "imagenet_256px", count_dit, 0.4, 100_000, 60.0),
}
SETS = (("cifar", 50_000), ("cifar", 500_000), ("imagenet", 1_281_167))


@dataclass(frozen=True)
class Run:
    """One set on so many GPUs of a kind.

    Attributes:
        images_per_shard: that keeps them at work.
        num_shards: of that size.
        wall_s: from the start of Ray to the manifest, by waves of shards of the same length.
        at_work: share of the GPUs' time that goes into images.
    """

    images_per_shard: int
    num_shards: int
    wall_s: float
    at_work: float


def plan_run(work: Work, num_images: int, num_gpus: int, images_per_s: float) -> Run:
    """Follow a run on paper."""
    section = load_config(work.preset).generate
    plan = Plan(num_images, (1,), section.images_per_shard, section.sampler_batch_size, base_seed=0)
    images_per_shard = fitting_images_per_shard(plan, num_gpus)
    num_shards = -(-num_images // images_per_shard)
    waves = -(-num_shards // num_gpus)
    shard_s = min(images_per_shard, num_images) / images_per_s
    wall_s = START_RAY_S + work.open_s + waves * shard_s + WRITE_LAST_S
    return Run(images_per_shard, num_shards, wall_s, num_images / images_per_s / (num_gpus * wall_s))


def writes_per_shard(num_bytes: float) -> int:
    """Requests to S3 that change something, for one shard and its note; a test counts those that are made."""
    return 2 + max(1, -(-int(num_bytes) // PART_BYTES)) + 3


def tables(prices: dict[str, float], speeds: dict[tuple[str, str], float]) -> str:
    """All tables, as Markdown."""
    return "\n\n".join([_speed_table(prices, speeds), _cost_table(prices, speeds), _load_table(speeds)])


def _speed(kind: str, name: str, speeds: dict[tuple[str, str], float]) -> tuple[float, str]:
    """Images/s of one GPU, and whether that was measured."""
    if (kind, name) in speeds:
        return speeds[kind, name], "measured"
    return WORKS[name].images_per_s(GPUS[kind]), "computed"


def _speed_table(prices: dict[str, float], speeds: dict[tuple[str, str], float]) -> str:
    heads = [f"{work.title}: images/s, {work.flops_per_image / 1e9:,.0f} GFLOP each" for work in WORKS.values()]
    rows = []
    for kind, gpu in GPUS.items():
        cells = [f"{_short(speed)} ({basis})" for speed, basis in (_speed(kind, name, speeds) for name in WORKS)]
        peak = f"{gpu.peak_tflops:g} TFLOP/s" + (f" {gpu.note}" if gpu.note else "")
        rows.append([kind, peak, *cells, f"${prices[kind]:.2f}"])
    return _markdown(["GPU", "peak", *heads, "price per hour (assumed)"], rows)


def _cost_table(prices: dict[str, float], speeds: dict[tuple[str, str], float]) -> str:
    rows = []
    for name, num_images in SETS:
        for num_gpus in NUM_GPUS:
            cells = []
            for kind in GPUS:
                run = plan_run(WORKS[name], num_images, num_gpus, _speed(kind, name, speeds)[0])
                cost = run.wall_s / 3600 * num_gpus * prices[kind]
                cells.append(f"{_duration(run.wall_s)}, ${cost:,.2f}, {run.at_work:.0%}")
            title = f"{num_images:,} of {WORKS[name].title}"
            rows.append([title, str(num_gpus), f"{run.num_shards:,} of {run.images_per_shard:,}", *cells])
    return _markdown(["images", "GPUs", "shards", *(f"{kind}: time, cost, at work" for kind in GPUS)], rows)


def _load_table(speeds: dict[tuple[str, str], float]) -> str:
    """What ImageNet on H100s asks of everything that all GPUs share."""
    work, rows = WORKS["imagenet"], []
    num_images = SETS[-1][1]
    for num_gpus in NUM_GPUS:
        speed = _speed("H100", "imagenet", speeds)[0]
        run = plan_run(work, num_images, num_gpus, speed)
        shards_per_s = num_gpus * speed / run.images_per_shard
        shard_bytes = run.images_per_shard * work.bytes_per_image
        writes = shards_per_s * writes_per_shard(shard_bytes)
        manifest_bytes = run.num_shards * MEASURED_MANIFEST_BYTES_PER_SHARD
        rows.append(
            [
                str(num_gpus),
                _short(shards_per_s),
                f"{shards_per_s / MEASURED_CALLS_PER_S:.2%}",
                _short(writes),
                f"{writes / S3_WRITES_PER_S:.2%}",
                f"{_short(shards_per_s * shard_bytes / 1e6)} MB/s",
                f"{_short(manifest_bytes / 1e6)} MB",
            ]
        )
    heads = ["H100s", "shards/s", "of what one driver can", "writes/s", "of one S3 prefix", "to the bucket", "manifest"]
    return _markdown(heads, rows)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_tables(text: str, new: str) -> str:
    """Put tables between the two marks of a document."""
    pattern = re.compile(r"(<!-- by benchmarks/scaling\.py -->\n).*?(<!-- end -->)", re.DOTALL)
    replaced, times = pattern.subn(lambda match: f"{match[1]}{new}\n{match[2]}", text)
    assert times == 1, "the document has one pair of marks"
    return replaced


def _pairs(words: list[str]) -> dict[str, float]:
    return {name: float(value) for name, _, value in (word.partition("=") for word in words)}


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", nargs="+", default=[], metavar="KIND=DOLLARS", help="of an hour")
    parser.add_argument("--images-per-s", nargs="+", default=[], metavar="KIND:SET=SPEED", help="of one GPU, measured")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/scaling.md")
    arguments = parser.parse_args()
    prices = {kind: gpu.price for kind, gpu in GPUS.items()} | _pairs(arguments.price)
    given = {
        (kind, name): speed
        for (kind, _, name), speed in (
            (key.partition(":"), each) for key, each in _pairs(arguments.images_per_s).items()
        )
    }
    text = tables(prices, given)
    if arguments.docs:
        DOCUMENT.write_text(replace_tables(DOCUMENT.read_text(), text))
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
