"""What workers do together: sums and means over them, and batch normalisation as if one worker had the whole batch."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from sio_ray.training.workers import (
    CPUSyncBatchNorm,
    mean_over_workers,
    sum_over_workers,
    synchronise_batch_norm,
    take_buffers_of_first,
    world_size,
)

#: Workers may have parts of other sizes.
PARTS = (slice(0, 4), slice(4, 7))
IMAGES = torch.randn(7, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    maps = (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    # G-ODIN's head normalises features, which are no maps.
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(18, 1), nn.BatchNorm1d(1)).double()


def train_on(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two passes, the gradients summed; what batch normalisation keeps depends on the first."""
    out = torch.cat([model(images), model(images.flip(3))])
    (out**3).sum().backward()
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return {**gradients, **dict(model.named_buffers())}


def narrow_images() -> torch.Tensor:
    """In bfloat16, as under autocast; far from 0, where a mean of two digits would be as wrong as they are wide."""
    return (IMAGES + 50).bfloat16()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(PARTS))
    values = torch.tensor([1.0, 10.0]) * (rank + 1)
    model = synchronise_batch_norm(network())
    found = {
        "sum": sum_over_workers(values),
        "mean": mean_over_workers(values),
        "kept": values,
        "world_size": world_size(),
        "kinds": [type(module) for module in model.modules()].count(CPUSyncBatchNorm),
        "trained": train_on(model, IMAGES[PARTS[rank]]),
        "evaluated": model.eval()(IMAGES[PARTS[rank]]).detach(),
    }
    norm = synchronise_batch_norm(nn.Sequential(nn.BatchNorm2d(2))).train()
    found["narrow"] = norm(narrow_images()[PARTS[rank]]).detach().float().numpy()
    found["narrow_mean"] = norm[0].running_mean.numpy()
    model[1].running_mean.add_(rank)
    take_buffers_of_first(model)
    found["buffer"] = model[1].running_mean - found["trained"]["1.running_mean"]
    with open(f"{folder}/{rank}", "wb") as stream:  # noqa: PTH123 - a worker's own file
        pickle.dump(found, stream)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=len(PARTS))
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(len(PARTS))]  # noqa: S301 - ours


def test_sums_and_means_are_over_all_workers_and_leave_their_argument(of_workers):
    for rank, found in enumerate(of_workers):
        assert found["sum"].tolist() == [3.0, 30.0]
        assert found["mean"].tolist() == [1.5, 15.0]
        assert found["kept"].tolist() == [rank + 1.0, 10.0 * (rank + 1)]
        assert found["world_size"] == 2


def test_alone_each_is_the_whole():
    values = torch.tensor([1.0, 2.0])
    assert world_size() == 1
    assert sum_over_workers(values).tolist() == mean_over_workers(values).tolist() == [1.0, 2.0]


def test_batch_normalisation_over_workers_is_that_of_one_worker_with_the_whole_batch(of_workers):
    model = network()
    whole = train_on(model, IMAGES)
    for name, value in whole.items():
        parts = [found["trained"][name] for found in of_workers]
        # Gradients are sums over images, of which each worker has some; statistics are the same in all.
        together = [sum(parts)] if name.startswith("gradient") else parts
        for part in together:
            torch.testing.assert_close(part, value, msg=name)
    torch.testing.assert_close(torch.cat([found["evaluated"] for found in of_workers]), model.eval()(IMAGES))
    assert [found["kinds"] for found in of_workers] == [3, 3]


def test_of_pictures_in_bfloat16_the_statistics_are_float32(of_workers):
    theirs = nn.BatchNorm2d(2)
    whole = theirs(narrow_images()).detach().float()
    together = torch.cat([torch.from_numpy(found["narrow"]) for found in of_workers])
    torch.testing.assert_close(together, whole, rtol=1e-2, atol=1e-2)
    for found in of_workers:
        torch.testing.assert_close(torch.from_numpy(found["narrow_mean"]), theirs.running_mean)


def test_a_momentum_of_none_is_the_mean_over_batches(of_workers):
    """Alone, ours is PyTorch's own."""
    ours, theirs = CPUSyncBatchNorm(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_every_worker_takes_the_buffers_of_the_first(of_workers):
    assert [found["buffer"].abs().max().item() for found in of_workers] == [0.0, 0.0]
