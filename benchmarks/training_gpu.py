"""Speed of training a ResNet-18 at 32 px on a GPU; run by `training.py --only gpu`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from feed import BATCH, plain_loader

from sio_ray.classifier.feed import Feed
from sio_ray.classifier.model import Classifier
from sio_ray.imageset import ImageArrays

#: Of a set of CIFAR-10's size, and of the recipe that the paper trains on it by.
NUM_IMAGES, NUM_EPOCHS = 50_000, 200

#: Multiplications and additions of a forward pass of ResNet-18 at 32 px, twice 0.5557 G; a training step takes three.
FLOPS_PER_IMAGE = 3 * 2 * 0.5557e9

#: Steps before the clock starts: kernels are chosen, and the network is compiled.
NUM_WARM_STEPS = 20


def calls_per_s(call: Callable[[int], Any], seconds: float) -> float:
    """How often something is done on the GPU in a second."""
    for number in range(NUM_WARM_STEPS):
        call(number)
    torch.cuda.synchronize()
    start_s, number = time.perf_counter(), NUM_WARM_STEPS
    while time.perf_counter() - start_s < seconds:
        call(number)
        number += 1
    torch.cuda.synchronize()
    return (number - NUM_WARM_STEPS) / (time.perf_counter() - start_s)


def peak_flops(seconds: float) -> float:
    """Operations per second of a large matrix product in bf16, as a yardstick."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return calls_per_s(lambda _: a @ b, seconds) * 2 * size**3


def plain_step(classifier: Classifier, pictures: Callable[[int], ImageArrays]) -> Callable[[int], None]:
    """What one would write: float32, a `DataLoader` of PIL transforms with two workers."""
    classifier.to("cuda").train()
    batches = iter(plain_loader(pictures(NUM_IMAGES), pictures(NUM_IMAGES + 1)))
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def step(number: int) -> None:
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(classifier(images.to("cuda")), labels.to("cuda")).backward()
        optimizer.step()

    return step


def measure_gpu(
    our_step: Callable[..., tuple[Callable[[int], Any], Feed]],
    classifier: Classifier,
    pictures: Callable[[int], ImageArrays],
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Images per second of both sides, and what that makes of a run of CIFAR-10's size.

    Args:
        our_step: makes the step of our trainee, on a device and with sets of so many images.
        classifier: what the other side trains.
        pictures: makes so many pictures.
        seconds: that each is measured for.
    """
    device = torch.device("cuda")
    fastest: dict[str, Any] = {"precision": "bfloat16", "compile": True}
    peak = peak_flops(seconds / 4)
    steps: dict[str, Callable[[], Callable[[int], Any]]] = {
        "plain_float32_loader": lambda: plain_step(classifier, pictures),
        "ours_float32": lambda: our_step(device, NUM_IMAGES)[0],
        "ours_bfloat16": lambda: our_step(device, NUM_IMAGES, precision="bfloat16")[0],
        "ours_bfloat16_compiled": lambda: our_step(device, NUM_IMAGES, **fastest)[0],
        "that_if_it_never_waited": lambda: our_step(device, NUM_IMAGES, never_waits=True, **fastest)[0],
    }
    speeds = {name: BATCH * calls_per_s(make(), seconds) for name, make in steps.items()}
    never_waits = speeds.pop("that_if_it_never_waited")
    return {
        "gpu": torch.cuda.get_device_name(),
        "measured_bf16_peak_tflops": round(peak / 1e12, 1),
        # What the fastest would gain if every batch were there already: the GPU makes batches and waits for them.
        "feed_percent": round(100 * (1 - speeds["ours_bfloat16_compiled"] / never_waits), 1),
        **{
            name: {
                "images_per_s": round(speed),
                "ratio_to_plain": round(speed / speeds["plain_float32_loader"], 2),
                "minutes_of_200_epochs_of_50000": round(NUM_EPOCHS * NUM_IMAGES / speed / 60, 1),
                "share_of_bf16_peak": round(speed * FLOPS_PER_IMAGE / peak, 3),
            }
            for name, speed in speeds.items()
        },
    }
