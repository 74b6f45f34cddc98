"""Measure the feed alone: mixed, augmented batches of float tensors, against what one would write instead.

python benchmarks/feed.py --json
python benchmarks/feed.py --images 10000 --no-stream      # quick, and without Ray

Plain: a PyTorch `Dataset` of PIL transforms in a 2-worker `DataLoader`, with the same two-source batch sampler. Once its
pictures lie in memory as arrays, which is the fastest it can be, and once as encoded PNG, as image files would.
Ours: the memory feed in one thread, and the streaming feed with one decoder per source.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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

#: Each speed is the best of so many: neighbours on the machine only ever slow it down.
ROUNDS = 5


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


def images_per_s(following: Callable[[], Any], num_batches: int) -> float:
    """Of the best round."""
    for _ in range(20):
        following()
    speeds = []
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        for _ in range(num_batches):
            following()
        speeds.append(num_batches * BATCH / (time.perf_counter() - start_s))
    return max(speeds)


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
        # What was decoded while the feed started is used up first.
        following = in_turn(feed)
        for _ in range(500):
            following()
        speed = images_per_s(following, 200)
        feed.close()
    ray.shutdown()
    return {"images_per_s": round(speed), "first_batch_s": round(first_s, 1)}


def measure_feed(num_images: int = 50_000, *, stream: bool = True) -> dict[str, Any]:
    """Images per second of each, and what our memory feed is of the plain loader.

    Args:
        num_images: real ones, and as many synthetic ones.
        stream: measure the streaming feed too, which starts Ray.
    """
    torch.set_num_threads(1)
    real, synthetic = pictures(num_images), pictures(num_images, 1)
    plain = {}
    for name, encoded in (("plain_arrays", False), ("plain_png", True)):
        batches = iter(plain_loader(real, synthetic, encoded=encoded))
        plain[name] = images_per_s(lambda batches=batches: next(batches), 100)
        del batches  # ends its processes
    feed = MemoryFeed(
        Sources(real, synthetic),
        global_batch_size=BATCH,
        real_batch_share=SHARE,
        augmentation=AUGMENTATION,
        seed=0,
    )
    ours = images_per_s(in_turn(feed), 400)
    return {
        **{f"{name}_images_per_s": round(speed) for name, speed in plain.items()},
        "memory_images_per_s": round(ours),
        "memory_over_plain_arrays": round(ours / plain["plain_arrays"], 1),
        "memory_over_plain_png": round(ours / plain["plain_png"], 1),
        "resident_gb": round(psutil.Process().memory_info().rss / 1e9, 2),
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
