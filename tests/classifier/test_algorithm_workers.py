"""Two workers with the same global batch train as one does, with every algorithm, under PyTorch's data parallelism."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from algorithm_samples import COMPOSITION, batch_of, context_of, mixed, objective_of, part_of
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sio_ray.classifier.algorithms import ALGORITHMS
from sio_ray.classifier.algorithms.gather import gather

NUM_STEPS, NUM_PIECES, REAL_WEIGHT = 4, 2, 0.7


def train(name: str, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """A few steps of SGD; weights, buffers, losses, and the pictures of the last step."""
    objective = objective_of(name, warm=False)
    parallel = objective if world_size == 1 else DistributedDataParallel(objective)
    parallel.eval()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    losses = []
    for step in range(NUM_STEPS):
        context = context_of(step)
        batch = mixed(objective.algorithm, part_of(batch_of(step), COMPOSITION, rank, world_size), context)
        optimizer.zero_grad()
        losses.append(torch.zeros(()))
        pieces = list(batch.chunks(NUM_PIECES))
        for piece in pieces:
            # Synchronised after the last piece only, as the trainee does it.
            if world_size > 1:
                parallel.require_backward_grad_sync = piece is pieces[-1]
            loss = world_size * parallel(piece, REAL_WEIGHT, context)
            loss.backward()
            losses[-1] += loss.detach() / world_size
        optimizer.step()
    whole = gather(batch.images, batch.positions, COMPOSITION.batch_size)
    total = torch.stack(losses)
    if world_size > 1:
        dist.all_reduce(total)
    return {**objective.state_dict(), "losses": total, "images": whole}


def work(rank: int, world_size: int, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    results = {name: train(name, rank, world_size) for name in ALGORITHMS}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results_of_workers(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("workers")
    multiprocessing.spawn(work, args=(2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_workers_train_as_one_does(name, results_of_workers):
    alone = train(name)
    first, second = (results[name] for results in results_of_workers)
    assert alone["losses"].isfinite().all()
    for key, value in alone.items():
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
        torch.testing.assert_close(second[key], first[key], rtol=0, atol=0)
