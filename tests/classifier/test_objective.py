"""The SIO objective against its definition, on one worker and split over several."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sio_ray.classifier.objective import sample_weights, sio_loss
from sio_ray.errors import BatchError, ConfigError

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("case", range(20))
def test_loss_is_the_weighted_sum_of_the_two_means(case):
    generator = torch.Generator().manual_seed(case)
    size = int(torch.randint(2, 40, (), generator=generator))
    is_synthetic = torch.rand(size, generator=generator) < 0.4
    is_synthetic[:2] = torch.tensor([True, False])
    losses = torch.rand(size, generator=generator) * 5
    alpha = float(torch.rand((), generator=generator))
    expected = alpha * losses[~is_synthetic].mean() + (1 - alpha) * losses[is_synthetic].mean()
    torch.testing.assert_close(sio_loss(losses, is_synthetic, real_weight=alpha), expected)


@pytest.mark.parametrize(("num_real", "num_synthetic", "alpha"), [(8, 2, 0.8), (1, 1, 0.5), (9, 1, 0.9), (3, 5, 0.375)])
def test_loss_is_the_plain_mean_where_the_share_equals_the_weight(num_real, num_synthetic, alpha):
    is_synthetic = torch.arange(num_real + num_synthetic) >= num_real
    losses = torch.rand(len(is_synthetic), generator=GENERATOR)
    torch.testing.assert_close(sio_loss(losses, is_synthetic, real_weight=alpha), losses.mean())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
def test_weights_sum_to_one_and_those_of_the_real_images_to_alpha(alpha):
    is_synthetic = torch.tensor([True, False, False, True, True, False, True])
    weights = sample_weights(is_synthetic, real_weight=alpha)
    assert weights.dtype == torch.float32
    assert weights.sum().item() == pytest.approx(1)
    assert weights[~is_synthetic].sum().item() == pytest.approx(alpha)
    assert len(set(weights[is_synthetic].tolist())) == len(set(weights[~is_synthetic].tolist())) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_with_the_counts_of_the_global_batch_the_parts_of_all_workers_make_the_objective(world_size):
    is_synthetic = torch.rand(23, generator=GENERATOR) < 0.3
    losses = torch.rand(23, generator=GENERATOR)
    counts = {"num_real": int((~is_synthetic).sum()), "num_synthetic": int(is_synthetic.sum())}
    parts = [sample_weights(part, real_weight=0.7, **counts) for part in is_synthetic.tensor_split(world_size)]
    assert torch.cat(parts).sum().item() == pytest.approx(1)
    whole = sum((w * part).sum() for w, part in zip(parts, losses.tensor_split(world_size), strict=True))
    torch.testing.assert_close(whole, sio_loss(losses, is_synthetic, real_weight=0.7))


def test_a_worker_may_hold_no_image_of_a_source_that_the_global_batch_has():
    weights = sample_weights(torch.tensor([False, False]), real_weight=0.5, num_real=4, num_synthetic=1)
    assert weights.tolist() == [0.125, 0.125]


@pytest.mark.parametrize(("alpha", "keep_synthetic"), [(1.0, False), (0.0, True)])
def test_at_weight_one_or_zero_gradients_are_those_of_one_source_alone(alpha, keep_synthetic):
    network = nn.Linear(6, 3)
    x, y = torch.randn(10, 6, generator=GENERATOR), torch.arange(10) % 3
    is_synthetic = torch.arange(10) >= 7
    sio_loss(F.cross_entropy(network(x), y, reduction="none"), is_synthetic, real_weight=alpha).backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    kept = is_synthetic == keep_synthetic
    F.cross_entropy(network(x[kept]), y[kept]).backward()
    for gradient, parameter in zip(gradients, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize(
    ("is_synthetic", "alpha", "name", "weight"),
    [([False, False], 0.8, "synthetic", "0.2"), ([True], 0.25, "real", "0.25"), ([], 1.0, "real", "1")],
)
def test_a_source_with_weight_but_without_images_is_named(is_synthetic, alpha, name, weight):
    with pytest.raises(BatchError) as error:
        sample_weights(torch.tensor(is_synthetic, dtype=torch.bool), real_weight=alpha)
    assert str(error.value) == (
        f"the batch has no {name} image although real_weight {alpha} gives that source weight {weight}; "
        "change real_batch_share or take a larger batch."
    )


@pytest.mark.parametrize("alpha", [80, -0.1, 1.0001, float("nan")])
def test_a_weight_that_is_no_share_is_refused_with_its_value(alpha):
    with pytest.raises(ConfigError) as error:
        sio_loss(torch.ones(2), torch.tensor([True, False]), real_weight=alpha)
    assert str(error.value) == f"real_weight must be in [0, 1], got {alpha}; give a share, not a percentage."
