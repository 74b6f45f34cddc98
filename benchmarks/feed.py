"""Measure the feed alone: mixed, augmented batches of float tensors, against what one would write instead.

python benchmarks/feed.py --json
python benchmarks/feed.py --images 10000 --no-stream      # quick, and without Ray

Plain: a PyTorch `Dataset` of PIL transforms in a 2-worker `DataLoader`, with the same two-source batch sampler. Once
with its pictures in memory as arrays, the fastest it can be, and once as encoded PNG, as image files are.
Ours: the memory feed in one thread, and the streaming feed with one decoder per source.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import transforms

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.feed import Feed, MemoryFeed, MixedBatchSampler, Sources
from sio_ray.imageset import ImageArrays, ImageSetInfo, write_image_set
from sio_ray.imageset.pictures import encode_png

BATCH, SHARE, SIDE_PX, PADDING_PX = 128, 0.8, 32, 4
AUGMENTATION = Augmentation(crop_padding_px=PADDING_PX, horizontal_flip=True)

#: Contestants take turns, so that neighbours on the machine slow all of them down; the medians are compared.
ROUNDS = 7


def pictures(count: int, seed: int = 0) -> ImageArrays:
    """Smooth pictures with some noise, which compress about as photos do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (64, 3, SIDE_PX // 8, SIDE_PX // 8))
    smooth = np.kron(coarse, np.ones((1, 1, 8, 8)))[np.arange(count) % 64]
    images = (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
    return ImageArrays(images, np.arange(count) % 10, np.arange(count))


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """What one would write: a picture at a time, through PIL."""

    def __init__(self, arrays: ImageArrays, *, encoded: bool) -> None:
        self._labels = arrays.labels.tolist()
        self._encoded = [encode_png(image) for image in arrays.images] if encoded else None
        self._images = arrays.images.transpose(0, 2, 3, 1)
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(SIDE_PX, padding=PADDING_PX),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._encoded is None:
            picture = Image.fromarray(self._images[index])
        else:
            picture = Image.open(io.BytesIO(self._encoded[index])).convert("RGB")
        return self._transform(picture), self._labels[index]


def plain_loader(real: ImageArrays, synthetic: ImageArrays, *, encoded: bool = False) -> DataLoader[Any]:
    """Mixed batches of images and labels by two processes, practically without end."""
    return DataLoader(
        ConcatDataset([PlainDataset(real, encoded=encoded), PlainDataset(synthetic, encoded=encoded)]),
        batch_sampler=MixedBatchSampler(
            len(real), len(synthetic), global_batch_size=BATCH, real_batch_share=SHARE, num_batches=10**6
        ),
        num_workers=2,
    )


def images_per_s(contestants: dict[str, tuple[Callable[[], Any], int]]) -> dict[str, int]:
    """Of the median round of each.

    Args:
        contestants: what makes the next batch, and how many batches a round has.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(1 + ROUNDS):
        for name, (following, num_batches) in contestants.items():
            start_s = time.perf_counter()
            for _ in range(num_batches):
                following()
            speeds[name].append(num_batches * BATCH / (time.perf_counter() - start_s))
    # The first round warms up.
    return {name: round(statistics.median(of_contestant[1:])) for name, of_contestant in speeds.items()}


def in_turn(feed: Feed) -> Callable[[], Any]:
    """Its batches, step by step."""
    steps = itertools.count()
    return lambda: feed.batch(next(steps))


def measure_stream(real: ImageArrays, synthetic: ImageArrays) -> dict[str, float]:
    """The streaming feed on a local Ray of this machine's cores."""
    import ray

    from sio_ray.cluster import connect
    from sio_ray.config import ClusterConfig
    from sio_ray.training.streaming import StreamedSet, StreamingFeed

    connect(ClusterConfig())
    info = ImageSetInfo(class_names=tuple("abcdefghij"), height_px=SIDE_PX, width_px=SIDE_PX, channels=3)
    with tempfile.TemporaryDirectory() as folder:
        for name, arrays in (("real", real), ("synthetic", synthetic)):
            write_image_set(Path(folder, name), info, arrays.images, arrays.labels)
        start_s = time.perf_counter()
        feed = StreamingFeed(
            Sources(StreamedSet(str(Path(folder, "real"))), StreamedSet(str(Path(folder, "synthetic")))),
            window=8192,
            num_steps=10**5,
            global_batch_size=BATCH,
            real_batch_share=SHARE,
            augmentation=AUGMENTATION,
            seed=0,
        )
        feed.batch(0)
        first_s = time.perf_counter() - start_s
        # The first round uses up what was decoded while the feed started.
        speed = images_per_s({"stream": (in_turn(feed), 400)})["stream"]
        feed.close()
    ray.shutdown()
    return {"images_per_s": speed, "first_batch_s": round(first_s, 1)}


def measure_feed(num_images: int = 50_000, *, stream: bool = True) -> dict[str, Any]:
    """Images per second of each, and what our memory feed is of the plain loader.

    Args:
        num_images: real ones, and as many synthetic ones.
        stream: measure the streaming feed too, which starts Ray.
    """
    torch.set_num_threads(1)
    real, synthetic = pictures(num_images), pictures(num_images, 1)
    feed = MemoryFeed(
        Sources(real, synthetic), global_batch_size=BATCH, real_batch_share=SHARE, augmentation=AUGMENTATION, seed=0
    )
    arrays, encoded = (iter(plain_loader(real, synthetic, encoded=encoded)) for encoded in (False, True))
    speeds = images_per_s(
        {
            "plain_arrays": (partial(next, arrays), 100),
            "plain_png": (partial(next, encoded), 100),
            "memory": (in_turn(feed), 1000),
        }
    )
    del arrays, encoded  # ends their processes
    return {
        **{f"{name}_images_per_s": speed for name, speed in speeds.items()},
        "memory_over_plain_arrays": round(speeds["memory"] / speeds["plain_arrays"], 1),
        "memory_over_plain_png": round(speeds["memory"] / speeds["plain_png"], 1),
        **({"stream": measure_stream(real, synthetic)} if stream else {}),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="real ones, and as many synthetic ones")
    parser.add_argument("--no-stream", action="store_true", help="leave out the streaming feed, and with it Ray")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    arguments = parser.parse_args()
    if not arguments.json:
        print("measuring the feed, a minute or two ...", file=sys.stderr, flush=True)
    print(json.dumps(measure_feed(arguments.images, stream=not arguments.no_stream), indent=1))


if __name__ == "__main__":
    main()
