"""VOS: its queues against a list per class, its outliers against a search through all draws, and what it trains."""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
import pytest
import torch
from algorithm_samples import (
    COMPOSITION,
    NUM_CLASSES,
    algorithm_of,
    batch_of,
    classifier_of,
    context_of,
    gradients,
    losses_of,
    mixed,
    objective_of,
)
from scipy.stats import ks_2samp

from sio_ray.classifier.algorithms.vos import longest_noise


def remembered(algorithm) -> dict[int, list[list[float]]]:
    """The queues' rows per class, sorted, as a queue is a set."""
    counts = algorithm.num_seen.clamp(max=algorithm.options.queue_size).tolist()
    return {label: sorted(algorithm.queue[label, :count].tolist()) for label, count in enumerate(counts)}


@pytest.mark.parametrize("queue_size", [1, 2, 5, 100])
def test_queues_hold_the_newest_features_of_each_class(queue_size):
    classifier = classifier_of("vos")
    algorithm = algorithm_of("vos", classifier, queue_size=queue_size)
    expected = defaultdict(lambda: deque(maxlen=queue_size))
    for step in range(6):
        batch = batch_of(step)
        losses_of(algorithm, classifier, batch, context_of(step))
        with torch.no_grad():
            for label, feature in zip(batch.labels.tolist(), classifier.features(batch.images).tolist(), strict=True):
                expected[label].append(feature)
        for label, rows in remembered(algorithm).items():
            np.testing.assert_allclose(rows, sorted(expected[label]), rtol=1e-6)
        rows = algorithm.queue.double()
        torch.testing.assert_close(algorithm.sums, rows.sum(1))
        torch.testing.assert_close(algorithm.second_moments, torch.einsum("cqd,cqe->de", rows, rows))
    assert algorithm.num_seen.sum().item() == 6 * COMPOSITION.batch_size


def test_outliers_have_the_mean_of_their_class_and_the_covariance_of_all():
    # With one draw per class it is selected whatever its length, so the outliers are the Gaussian itself.
    algorithm = algorithm_of("vos", classifier_of("vos"), queue_size=20, num_draws=1)
    generator = torch.Generator().manual_seed(0)
    num_features = algorithm.num_features
    spread = torch.randn(num_features, num_features, generator=generator) * torch.linspace(0.1, 3, num_features)
    for _ in range(10):  # more than the queues hold
        labels = torch.randint(NUM_CLASSES, (15,), generator=generator)
        features = torch.randn(15, num_features, generator=generator) @ spread.T + 2.0 * labels[:, None]
        algorithm._remember(features, labels)
    queues = {label: np.array(rows) for label, rows in remembered(algorithm).items()}
    centred = np.concatenate([rows - rows.mean(0) for rows in queues.values()])
    covariance = centred.T @ centred / len(centred) + 1e-4 * np.eye(centred.shape[1])
    draws = torch.stack([algorithm._draw(torch.Generator().manual_seed(seed)) for seed in range(4000)]).double().numpy()
    scale = np.sqrt(np.diag(covariance))
    for label, rows in queues.items():
        np.testing.assert_allclose(draws[:, label].mean(0) / scale, rows.mean(0) / scale, atol=0.08)
        np.testing.assert_allclose(
            np.cov(draws[:, label].T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.12
        )


def test_a_unit_that_never_fires_varies_by_the_ridge_alone():
    algorithm = algorithm_of("vos", classifier_of("vos"), queue_size=20, num_draws=1)
    features = torch.rand(40, algorithm.num_features, generator=torch.Generator().manual_seed(0))
    features[:, 3] = 0
    algorithm._remember(features, torch.arange(40) % NUM_CLASSES)
    draws = torch.cat([algorithm._draw(torch.Generator().manual_seed(seed)) for seed in range(500)])
    assert draws.isfinite().all()
    assert draws[:, 3].std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("dim", "num_draws", "num_selected"), [(2, 1, 1), (3, 20, 1), (16, 40, 3), (5, 4, 4)])
def test_the_longest_noise_is_distributed_as_if_all_had_been_drawn(dim, num_draws, num_selected):
    generator, repeats = torch.Generator().manual_seed(0), 4000
    noise = longest_noise(repeats, num_selected, dim, num_draws, generator=generator).numpy()
    rows = np.random.default_rng(0).normal(size=(repeats, num_draws, dim))
    order = np.argsort(-np.linalg.norm(rows, axis=2), axis=1)[:, :num_selected]
    searched = np.take_along_axis(rows, order[:, :, None], axis=1)
    for place in range(num_selected):
        lengths = [np.linalg.norm(x[:, place], axis=1) for x in (noise, searched)]
        assert ks_2samp(*lengths).pvalue > 0.001
        assert ks_2samp(noise[:, place, 0], searched[:, place, 0]).pvalue > 0.001
    lengths = np.linalg.norm(noise, axis=2)
    assert (np.diff(lengths, axis=1) <= 0).all()


def test_the_longest_of_many_draws_in_many_dimensions_is_finite_and_long():
    noise = longest_noise(100, 1, 512, 10_000, generator=torch.Generator().manual_seed(0))
    lengths = noise.norm(dim=2).flatten()
    # sqrt(512) is the length of a usual one; the longest of 10,000 lies 3.85 standard deviations of 1/sqrt(2) above.
    assert abs(lengths.mean().item() - (512**0.5 + 3.85 / 2**0.5)) < 0.1


def test_until_its_start_vos_is_cross_entropy_and_afterwards_it_is_not():
    classifier = classifier_of("vos")
    algorithm, plain = algorithm_of("vos", classifier, start_share=0.4), algorithm_of("cross_entropy", classifier)
    for step in range(7):
        batch, context = batch_of(step), context_of(step, num_steps=10)
        losses = losses_of(algorithm, classifier, batch, context)
        same = torch.equal(losses.per_sample, losses_of(plain, classifier, batch, context).per_sample)
        assert same == (step < 4)
        assert (losses.extra.item() == 0) == (step < 4)


def test_a_run_that_starts_at_once_skips_the_step_that_has_no_features_to_draw_from():
    objective = objective_of("vos", warm=False)
    losses = losses_of(objective.algorithm, objective.classifier, batch_of(0), context_of(0))
    assert losses.extra.item() == 0
    assert losses_of(objective.algorithm, objective.classifier, batch_of(1), context_of(1)).extra.item() > 0


def test_a_class_without_features_gives_no_outliers():
    objective = objective_of("vos", warm=False)
    first = batch_of(0)
    first.labels.fill_(2)
    losses_of(objective.algorithm, objective.classifier, first, context_of(0))
    losses = losses_of(objective.algorithm, objective.classifier, batch_of(1), context_of(1))
    algorithm, outliers = objective.algorithm, objective.algorithm._outliers
    with torch.no_grad():
        of_class_2 = algorithm._regulariser(objective.classifier.logits(outliers[2:3]), 1)
    torch.testing.assert_close(losses.extra.detach(), 0.1 * of_class_2.mean())


@pytest.mark.parametrize("detached", [False, True])
def test_the_regulariser_trains_the_network_unless_it_is_detached(detached):
    with_it, without = objective_of("vos", weight=0.5, detached=detached), objective_of("vos", weight=0.0)
    of_both = []
    for objective in (with_it, without):
        batch = mixed(objective.algorithm, batch_of(), context_of())
        of_both.append(gradients(objective, objective(batch, 0.8, context_of())))
    for name, gradient in of_both[0].items():
        same = torch.allclose(gradient, of_both[1][name], rtol=1e-5, atol=1e-8)
        assert same == (detached and name.startswith("classifier.")), name


def test_the_outliers_alone_train_the_last_layer():
    objective = objective_of("vos")
    batch = mixed(objective.algorithm, batch_of(), context_of())
    reached = gradients(objective, objective.algorithm.losses(objective.classifier, batch, context_of()).extra)
    assert reached["classifier.head.weight"].abs().sum() > 0
    assert not any(gradient.abs().sum() for name, gradient in reached.items() if name.startswith("classifier.network"))


def test_weights_that_have_all_become_zero_leave_the_loss_finite():
    objective = objective_of("vos")
    with torch.no_grad():
        objective.algorithm.energy_weight.fill_(-1)
    batch = mixed(objective.algorithm, batch_of(), context_of())
    loss = objective(batch, 0.8, context_of())
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(objective, loss).values())


def test_features_that_are_no_numbers_end_as_a_loss_that_is_none():
    objective = objective_of("vos")
    objective.algorithm.sums[0, 0] = torch.nan
    batch = mixed(objective.algorithm, batch_of(), context_of())
    assert objective(batch, 0.8, context_of()).isnan()


def test_a_resumed_run_goes_on_bit_for_bit():
    def train(objective, steps):
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
        losses = []
        for step in steps:
            batch = mixed(objective.algorithm, batch_of(step), context_of(step))
            loss = objective(batch, 0.8, context_of(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    straight, killed, resumed = (objective_of("vos", warm=False, queue_size=4) for _ in range(3))
    expected = train(straight, range(6))
    losses = train(killed, range(3))
    resumed.load_state_dict({name: value.clone() for name, value in killed.state_dict().items()})
    assert losses + train(resumed, range(3, 6)) == expected
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_losses_before_mix_are_refused():
    objective = objective_of("vos")
    with pytest.raises(AssertionError, match="mix is called once before the losses of a step"):
        objective(batch_of(), 0.8, context_of())


def test_queues_take_what_the_docstring_says():
    objective = objective_of("vos", queue_size=7)
    assert objective.algorithm.queue.shape == (NUM_CLASSES, 7, objective.classifier.num_features)
    assert objective.algorithm.queue.dtype == torch.float32
