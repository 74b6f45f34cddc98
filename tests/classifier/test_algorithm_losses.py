"""Every algorithm's loss against its formula, written once more in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from algorithm_samples import (
    COMPOSITION,
    NUM_CLASSES,
    QUICK,
    algorithm_of,
    batch_of,
    classifier_of,
    context_of,
    losses_of,
    mixed,
    objective_of,
)
from scipy.special import log_softmax, logsumexp

from sio_ray.classifier.algorithms import ALGORITHMS


def logits_of(classifier, images) -> np.ndarray:
    with torch.no_grad():
        return classifier(images).double().numpy()


def cross_entropy(logits, labels, label_smoothing: float = 0.0) -> np.ndarray:
    targets = (1 - label_smoothing) * np.eye(logits.shape[1])[labels] + label_smoothing / logits.shape[1]
    return -(targets * log_softmax(logits, axis=1)).sum(1)


def close(tensor, expected) -> None:
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy(label_smoothing):
    classifier, batch = classifier_of("cross_entropy"), batch_of()
    losses = losses_of(
        algorithm_of("cross_entropy", classifier, label_smoothing=label_smoothing), classifier, batch, context_of()
    )
    close(losses.per_sample, cross_entropy(logits_of(classifier, batch.images), batch.labels.numpy(), label_smoothing))
    assert losses.extra is None


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_logit_norm_is_cross_entropy_on_logits_of_length_one_over_the_temperature(temperature):
    classifier, batch = classifier_of("logit_norm"), batch_of()
    options = {} if temperature is None else {"temperature": temperature}
    losses = losses_of(algorithm_of("logit_norm", classifier, **options), classifier, batch, context_of())
    logits = logits_of(classifier, batch.images)
    unit = logits / np.linalg.norm(logits, axis=1, keepdims=True)
    close(losses.per_sample, cross_entropy(unit / (temperature or 0.04), batch.labels.numpy()))


def test_logit_norm_of_zero_logits_is_that_of_a_guess_and_has_a_finite_gradient():
    classifier, batch = classifier_of("logit_norm"), batch_of()
    torch.nn.init.zeros_(classifier.head.weight)
    torch.nn.init.zeros_(classifier.head.bias)
    losses = losses_of(algorithm_of("logit_norm", classifier), classifier, batch, context_of())
    close(losses.per_sample, np.full(COMPOSITION.batch_size, np.log(NUM_CLASSES)))
    losses.per_sample.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters())


def test_g_odin_is_cross_entropy_on_cosines_over_a_confidence():
    classifier, batch = classifier_of("g_odin"), batch_of()
    head = classifier.head
    with torch.no_grad():  # statistics and scale other than those of the start
        head.g[1].running_mean.fill_(0.2)
        head.g[1].running_var.fill_(0.5)
        head.g[1].weight.fill_(1.5)
        features = classifier.features(batch.images).double().numpy()
    losses = losses_of(algorithm_of("g_odin", classifier), classifier, batch, context_of())
    weights = head.h.weight.detach().double().numpy()
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(weights, axis=1)
    linear = features @ head.g[0].weight.detach().double().numpy().T + head.g[0].bias.item()
    normalised = 1.5 * (linear - 0.2) / np.sqrt(0.5 + 1e-5) + head.g[1].bias.item()
    confidence = 1 / (1 + np.exp(-normalised))
    # OpenOOD adds 1e-4 to the lengths, and so does the head.
    np.testing.assert_allclose(
        losses.per_sample.detach().numpy(),
        cross_entropy(features @ weights.T / lengths / confidence, batch.labels.numpy()),
        rtol=2e-3,
    )


def test_g_odin_keeps_weight_decay_from_h_and_from_nothing_else():
    classifier = classifier_of("g_odin")
    (exempt,) = algorithm_of("g_odin", classifier).no_decay(classifier)
    assert exempt is classifier.head.h.weight


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "g_odin"])
def test_other_algorithms_keep_weight_decay_from_nothing(name):
    objective = objective_of(name, warm=False)
    assert objective.algorithm.no_decay(objective.classifier) == []


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_outlier_exposure_adds_the_mean_cross_entropy_of_the_outliers_to_the_uniform_distribution(weight):
    classifier, batch = classifier_of("outlier_exposure"), batch_of()
    losses = losses_of(algorithm_of("outlier_exposure", classifier, weight=weight), classifier, batch, context_of())
    close(losses.per_sample, cross_entropy(logits_of(classifier, batch.images), batch.labels.numpy()))
    of_outliers = log_softmax(logits_of(classifier, batch.outliers), axis=1)
    close(losses.extra, weight * -of_outliers.mean(axis=1).mean())


@pytest.mark.parametrize("num_outliers", [0, 2])
def test_a_worker_adds_its_outliers_over_the_number_of_all(num_outliers):
    classifier, batch = classifier_of("outlier_exposure"), batch_of()
    part = type(batch)(**{**vars(batch), "outliers": batch.outliers[:num_outliers]})
    losses = losses_of(algorithm_of("outlier_exposure", classifier), classifier, part, context_of())
    of_outliers = -log_softmax(logits_of(classifier, batch.outliers[:num_outliers]), axis=1).mean(axis=1)
    close(losses.extra, 0.5 * of_outliers.sum() / COMPOSITION.num_outliers)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_mixed_image_has_the_blend_of_the_two_labels_losses(name):
    classifier, batch = classifier_of(name), batch_of()
    algorithm = algorithm_of(name, classifier)
    after = mixed(algorithm, batch, context_of())
    losses = algorithm.losses(classifier, after, context_of())
    logits = logits_of(classifier, after.images)
    by_label = np.stack([cross_entropy(logits, np.full(len(logits), label)) for label in range(NUM_CLASSES)], axis=1)
    close(losses.per_sample, (after.targets.double().numpy() * by_label).sum(1))


def test_vos_is_cross_entropy_and_logistic_regression_on_energies():
    objective = objective_of("vos", weight=0.3, num_selected=2)
    classifier, algorithm, batch = objective.classifier, objective.algorithm, batch_of()
    with torch.no_grad():
        algorithm.energy_weight.copy_(torch.tensor([0.5, -0.2, 1.0, 0.7]))
    losses = losses_of(algorithm, classifier, batch, context_of())

    known = (algorithm._outliers.view(NUM_CLASSES, 2, -1)[sorted(set(batch_of(0).labels.tolist()))]).flatten(0, 1)
    with torch.no_grad():
        of_images = classifier(batch.images).double().numpy()
        of_outliers = classifier.logits(known).double().numpy()
    weight, bias = (p.detach().double().numpy() for p in algorithm.logistic.parameters())

    def regulariser(logits, kind):
        energy = logsumexp(logits, axis=1, b=np.array([0.5, 0.0, 1.0, 0.7]))
        return -log_softmax(energy[:, None] * weight[:, 0] + bias, axis=1)[:, kind]

    close(losses.per_sample, cross_entropy(of_images, batch.labels.numpy()) + 0.3 * regulariser(of_images, 0))
    close(losses.extra, 0.3 * regulariser(of_outliers, 1).mean())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_losses_are_float32_and_close_under_autocast(name):
    exact, autocast = objective_of(name), objective_of(name)
    expected = losses_of(exact.algorithm, exact.classifier, batch_of(), context_of())
    after = mixed(autocast.algorithm, batch_of(), context_of())
    with torch.autocast("cpu", torch.bfloat16):
        losses = autocast.algorithm.losses(autocast.classifier, after, context_of())
    assert losses.per_sample.dtype == torch.float32
    # LogitNorm divides by 0.04, and with it the rounding of the logits.
    torch.testing.assert_close(
        losses.per_sample, expected.per_sample, rtol=0.05, atol=0.5 if name == "logit_norm" else 0.05
    )
    if expected.extra is not None:
        torch.testing.assert_close(losses.extra, expected.extra, rtol=0.05, atol=0.01)


def test_every_algorithm_has_its_quick_options():
    assert QUICK.keys() == ALGORITHMS.keys()
