"""Laws that every algorithm of the table keeps: SIO weights, pieces of a batch, learning, and errors before work."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from algorithm_samples import (
    COMPOSITION,
    QUICK,
    algorithm_of,
    all_real,
    batch_of,
    classifier_of,
    context_of,
    gradients,
    losses_of,
    mixed,
    objective_of,
    rows_of,
)

from sio_ray.classifier.algorithms import ALGORITHMS, build_algorithm, check_algorithm
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import Composition, compose
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.objective import sample_weights
from sio_ray.errors import ConfigError
from sio_ray.imageset.pixel_counts import count_pixels, statistics_of


@pytest.mark.parametrize("name", ALGORITHMS)
def test_where_the_batch_share_is_the_weight_sio_is_the_baseline_on_the_mixed_batch(name):
    share = COMPOSITION.num_real / COMPOSITION.batch_size
    sio, baseline = objective_of(name), objective_of(name)
    loss = sio(mixed(sio.algorithm, batch_of(), context_of()), share, context_of())
    of_baseline = context_of(composition=Composition(COMPOSITION.batch_size, 0, COMPOSITION.num_outliers))
    plain = baseline(mixed(baseline.algorithm, all_real(batch_of()), of_baseline), 1.0, of_baseline)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(sio, loss), gradients(baseline, plain), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("real_weight", [0.0, 0.35, 0.9])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_objective_is_the_weighted_sum_of_the_two_means(name, real_weight):
    objective, same = objective_of(name), objective_of(name)
    loss = objective(mixed(objective.algorithm, batch_of(), context_of()), real_weight, context_of())
    losses = losses_of(same.algorithm, same.classifier, batch_of(), context_of())
    real, synthetic = losses.per_sample.split([COMPOSITION.num_real, COMPOSITION.num_synthetic])
    expected = real_weight * real.mean() + (1 - real_weight) * synthetic.mean()
    torch.testing.assert_close(loss, expected + (0 if losses.extra is None else losses.extra))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_at_weight_one_gradients_are_those_of_the_real_images_alone(name):
    sio, baseline = objective_of(name), objective_of(name)
    batch = mixed(sio.algorithm, batch_of(), context_of())
    of_sio = gradients(sio, sio(batch, 1.0, context_of()))
    alone = context_of(composition=Composition(COMPOSITION.num_real, 0, COMPOSITION.num_outliers))
    real = rows_of(batch, torch.arange(COMPOSITION.num_real))
    mixed(baseline.algorithm, real, alone)  # for what it draws; the pictures stay as they were mixed before
    torch.testing.assert_close(of_sio, gradients(baseline, baseline(real, 1.0, alone)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("num_pieces", [2, 3, 11, 50])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_pieces_of_a_batch_sum_to_the_whole(name, num_pieces):
    whole, pieces = objective_of(name, label_smoothing=0.1), objective_of(name, label_smoothing=0.1)
    loss = whole(mixed(whole.algorithm, batch_of(), context_of()), 0.6, context_of())
    parts = mixed(pieces.algorithm, batch_of(), context_of()).chunks(num_pieces)
    losses = [pieces(piece, 0.6, context_of()) for piece in parts]
    assert len(losses) == min(num_pieces, COMPOSITION.batch_size)
    torch.testing.assert_close(sum(losses), loss)
    torch.testing.assert_close(gradients(pieces, sum(losses)), gradients(whole, loss), rtol=1e-4, atol=1e-7)
    for remembered, expected in zip(pieces.algorithm.buffers(), whole.algorithm.buffers(), strict=True):
        torch.testing.assert_close(remembered, expected)


@pytest.mark.parametrize("num_pieces", [1, 2, 3, 11])
def test_every_piece_has_the_mixture_of_the_batch_and_each_image_is_in_one(num_pieces):
    pieces = list(batch_of().chunks(num_pieces))
    for of_piece in (
        [int((~piece.is_synthetic).sum()) for piece in pieces],
        [int(piece.is_synthetic.sum()) for piece in pieces],
        [len(piece.outliers) for piece in pieces],
    ):
        assert max(of_piece) - min(of_piece) <= 1
    assert sorted(torch.cat([piece.positions for piece in pieces]).tolist()) == list(range(COMPOSITION.batch_size))
    for piece in pieces:
        assert torch.equal(piece.images, batch_of().images[piece.positions])
        assert piece.is_synthetic.tolist() == sorted(piece.is_synthetic.tolist()), "real images first"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_is_a_function_of_seed_and_number_and_leaves_its_batch_as_it_was(name):
    batch = batch_of()
    before = replace(batch, images=batch.images.clone(), mixing=batch.mixing.clone())
    steps = []
    for context in (context_of(), context_of(), context_of(2), replace(context_of(), seed=1)):
        algorithm = objective_of(name).algorithm
        steps.append(mixed(algorithm, batch, context).images)
    assert torch.equal(batch.images, before.images)
    assert torch.equal(batch.mixing, before.mixing)
    assert torch.equal(steps[0], steps[1])
    if name in ("mixup", "cutmix", "pixmix"):
        assert not torch.equal(steps[0], steps[2])
        assert not torch.equal(steps[0], steps[3])
    else:
        assert all(torch.equal(step, batch.images) for step in steps)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_parameter_gets_a_gradient_in_every_step(name):
    """Data parallelism waits for all of them."""
    objective = objective_of(name, warm=False, **({"start_share": 0.2} if name == "vos" else {}))
    for step in range(4):
        batch = mixed(objective.algorithm, batch_of(step), context_of(step))
        reached = gradients(objective, objective(batch, 0.8, context_of(step)))
        assert reached.keys() == {name for name, _ in objective.named_parameters()}


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_any_number_of_channels_and_any_proportions_will_do(name, channels):
    shape = (channels, 8, 12)
    classifier = classifier_of(name, shape=shape)
    losses = losses_of(algorithm_of(name, classifier, **QUICK[name]), classifier, batch_of(shape=shape), context_of())
    assert losses.per_sample.shape == (COMPOSITION.batch_size,)
    assert losses.per_sample.isfinite().all()


def test_the_table_says_what_an_algorithm_needs():
    assert {name: set(kind.needs) for name, kind in ALGORITHMS.items() if kind.needs} == {
        "pixmix": {"mixing"},
        "outlier_exposure": {"outliers"},
    }
    assert [name for name, kind in ALGORITHMS.items() if kind.head == "g_odin"] == ["g_odin"]


def test_defaults_are_those_of_the_papers_and_of_openood():
    assert {name: kind.Options().model_dump() for name, kind in ALGORITHMS.items()} == {
        "cross_entropy": {},
        "logit_norm": {"temperature": 0.04},
        "vos": {
            "weight": 0.1,
            "start_share": 0.4,
            "queue_size": 1000,
            "num_draws": 10000,
            "num_selected": 1,
            "detached": False,
        },
        "g_odin": {},
        "mixup": {"alpha": 0.2},
        "cutmix": {"beta": 1.0, "probability": 1.0},
        "pixmix": {"k": 4, "beta": 3.0, "severity": 3.0, "all_operations": True},
        "outlier_exposure": {"weight": 0.5},
    }


OPTION = "train.algorithm_options"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "logitnorm",
            {},
            "train.algorithm must be among cross_entropy, logit_norm, vos, g_odin, mixup, cutmix, pixmix, "
            "outlier_exposure, got 'logitnorm'; did you mean logit_norm.",
        ),
        (
            "logit_norm",
            {"temprature": 1},
            f"{OPTION}.temprature must be an option of logit_norm (temperature), got 1; did you mean temperature.",
        ),
        (
            "cutmix",
            {"zzz": 1},
            f"{OPTION}.zzz must be an option of cutmix (beta, probability), got 1; choose from these.",
        ),
        ("g_odin", {"h": 1}, f"{OPTION}.h must be left out, as g_odin has no options, got 1; remove it."),
        ("logit_norm", {"temperature": 0}, f"{OPTION}.temperature must be greater than 0.0, got 0; correct the value."),
        ("mixup", {"alpha": "much"}, f"{OPTION}.alpha must be a number, got 'much'; correct the value."),
        ("mixup", {"alpha": True}, f"{OPTION}.alpha must be a number, got True; correct the value."),
        ("pixmix", {"k": 1.5}, f"{OPTION}.k must be a whole number, got 1.5; correct the value."),
        (
            "pixmix",
            {"severity": float("nan")},
            f"{OPTION}.severity must be a finite number, got nan; correct the value.",
        ),
        (
            "vos",
            {"num_selected": 3, "num_draws": 2},
            f"{OPTION}.num_selected must be at most num_draws (2), got 3; lower it, or raise the other.",
        ),
    ],
)
def test_a_wrong_name_or_option_is_named_with_its_value(name, options, message):
    with pytest.raises(ConfigError) as error:
        check_algorithm(name, options)
    assert str(error.value) == message
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_algorithm(name, options, num_classes=2, num_features=2, label_smoothing=0.0)


@pytest.mark.parametrize(("name", "field", "value"), [("cutmix", "probability", 80), ("vos", "start_share", 40)])
def test_a_percentage_is_refused(name, field, value):
    with pytest.raises(ConfigError, match=rf"^{re.escape(OPTION)}\.{field} must be .*1.*, got {value}; "):
        check_algorithm(name, {field: value})


@pytest.fixture(scope="module")
def learning_material(digits):
    """Real digits, noisy ones in place of synthetic ones, and outliers; as floats."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.from_numpy(digits.images).float() / 255, torch.from_numpy(digits.labels)
    noisy = (images[800:1200] + 0.1 * torch.randn(400, 1, 8, 8, generator=generator)).clamp(0, 1)
    outliers = torch.rand(256, 1, 8, 8, generator=generator)
    return (images[:800], labels[:800]), (noisy, labels[800:1200]), outliers, (images[1200:], labels[1200:])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_digits_are_learned_to_over_90_percent_in_seconds(name, digits, learning_material):
    (real, real_labels), (synthetic, synthetic_labels), outliers, (test, test_labels) = learning_material
    mean, std = statistics_of(count_pixels(digits.images))
    torch.manual_seed(0)
    classifier = Classifier(
        Architecture(
            network="small_cnn",
            width=8,
            head=ALGORITHMS[name].head,
            class_names=tuple("0123456789"),
            image_shape=(1, 8, 8),
            mean=mean,
            std=std,
        )
    )
    algorithm, num_steps, rng = algorithm_of(name, classifier), 150, np.random.default_rng(0)
    composition = compose(64, 0.8, num_outliers=32)
    parameters = [*classifier.parameters(), *algorithm.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=num_steps, pct_start=0.1)

    def draw(pool: torch.Tensor, count: int) -> torch.Tensor:
        return torch.from_numpy(rng.choice(len(pool), count))

    for step in range(num_steps):
        of_real, of_synthetic = draw(real, composition.num_real), draw(synthetic, composition.num_synthetic)
        batch = MixedBatch(
            images=torch.cat([real[of_real], synthetic[of_synthetic]]),
            labels=torch.cat([real_labels[of_real], synthetic_labels[of_synthetic]]),
            is_synthetic=torch.arange(64) >= composition.num_real,
            positions=torch.arange(64),
            outliers=outliers[draw(outliers, 32)],
            mixing=outliers[draw(outliers, 64)],
        )
        context = context_of(step, num_steps=num_steps, composition=composition)
        losses = losses_of(algorithm, classifier, batch, context)
        loss = (sample_weights(batch.is_synthetic, real_weight=0.8) * losses.per_sample).sum()
        loss = loss if losses.extra is None else loss + losses.extra
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    accuracy = (classifier.eval()(test).argmax(1) == test_labels).double().mean().item()
    assert accuracy > 0.9, f"{name}: {accuracy}"
