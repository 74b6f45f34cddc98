"""Detectors of logits against NumPy written here, pytorch-ood, what libmr gave, and the laws of all detectors."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType
from typing import Any

import detector_laws
import numpy as np
import pytest
import torch
from detector_laws import Array, auroc, everything, fitted, rows
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy, spearmanr, weibull_min
from torch import Tensor
from trained_digits import TrainedDigits

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors import DETECTORS, blocks, build_detectors
from sio_ray.ood.detectors.openmax import OpenMax
from sio_ray.ood.detectors.temp_scale import TempScale
from sio_ray.ood.outputs import NetworkOutputs

NAMES = ["msp", "temp_scale", "max_logit", "energy", "gen", "klm", "openmax"]


def of_logits(logits: Tensor, labels: Tensor | None = None) -> NetworkOutputs:
    ids = torch.arange(len(logits))
    return NetworkOutputs(torch.zeros(len(logits), 1), logits, ids if labels is None else labels, ids)


def float64(tensor: Tensor) -> Array:
    return tensor.double().numpy()


# --- each against NumPy -----------------------------------------------------------------------------------------------


def klm_by_hand(logits: Array, val: Array) -> Array:
    p = softmax(val, axis=1)
    typical = [p[p.argmax(axis=1) == c].mean(axis=0) for c in np.unique(p.argmax(axis=1))]
    return np.min([entropy(softmax(logits, axis=1), d[None], axis=1) for d in typical], axis=0)


def openmax_by_hand(logits: Array, train: Array, labels: Array, tail_size: int = 20, alpha: int = 3) -> Array:
    """Image by image and class by class, with probabilities; then their log odds."""
    is_right = train.argmax(axis=1) == labels
    means, weibulls = [], []
    for c in range(train.shape[1]):
        of_class = train[is_right & (labels == c)]
        means.append(of_class.mean(axis=0))
        tail = np.sort([np.linalg.norm(v - means[c]) for v in of_class])[-tail_size:]
        shape, _, scale = weibull_min.fit(tail - tail[0] + 1, floc=0)
        weibulls.append(weibull_min(shape, loc=tail[0] - 1, scale=scale))
    scores = []
    for v in logits:
        revised = v.copy()
        for rank, c in enumerate(np.argsort(-v)[:alpha], start=1):
            w = weibulls[c].cdf(np.linalg.norm(v - means[c]))
            revised[c] = v[c] * (1 - w * (alpha + 1 - rank) / alpha)
        e = np.exp([(v - revised).sum(), *revised])
        scores.append(np.log(e[0] / e[1:].sum()))
    return np.array(scores)


def by_hand(name: str, logits: Array, digits: TrainedDigits) -> Array:
    p = softmax(logits, axis=1)
    if name == "msp":
        return -p.max(axis=1)
    if name == "max_logit":
        return -logits.max(axis=1)
    if name == "energy":
        return -np.log(np.exp(logits).sum(axis=1))
    if name == "gen":
        return (p**0.1 * (1 - p) ** 0.1).sum(axis=1)
    if name == "klm":
        return klm_by_hand(logits, float64(digits.val.logits))
    if name == "openmax":
        return openmax_by_hand(logits, float64(digits.train.logits), digits.train.labels.numpy())
    assert name == "temp_scale"  # no mistake in this validation set: T is the lower bound
    others = np.sort(logits, axis=1)[:, :-1] - logits.max(axis=1, keepdims=True)
    return logsumexp(others / 0.01, axis=1)


@pytest.mark.parametrize("name", NAMES)
def test_equals_numpy(name: str, digits: TrainedDigits) -> None:
    outputs = everything(digits)
    scores = fitted(name, digits).score(outputs).numpy()
    # The Weibull fit climbs to about five digits.
    tolerance = 1e-4 if name == "openmax" else 1e-9
    np.testing.assert_allclose(scores, by_hand(name, float64(outputs.logits), digits), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["msp", "max_logit", "energy", "gen", "klm"])
def test_orders_images_as_pytorch_ood(name: str, digits: TrainedDigits, pytorch_ood_detectors: ModuleType) -> None:
    outputs, theirs = everything(digits), pytorch_ood_detectors
    logits, val = outputs.logits.double(), digits.val.logits.double()  # as their float32 softmax ties confident images
    scores = {
        "msp": lambda: theirs.MaxSoftmax(None).predict_logits(logits),
        "max_logit": lambda: theirs.MaxLogit(None).predict_logits(logits),
        "energy": lambda: theirs.EnergyBased(None).predict_logits(logits),
        "gen": lambda: theirs.GEN(None).predict_logits(logits),
        "klm": lambda: theirs.KLMatching(None).fit_logits(val).predict_logits(logits),
    }[name]()
    assert spearmanr(fitted(name, digits).score(outputs).numpy(), scores.numpy()).statistic > 0.9999


# --- MSP and energy ---------------------------------------------------------------------------------------------------


def test_msp_keeps_apart_what_float32_ties() -> None:
    logits = torch.tensor([[20.0, 0.0], [21.0, 0.0]])
    assert logits.softmax(dim=1).amax(dim=1).unique().numel() == 1
    first, second = DETECTORS["msp"]().score(of_logits(logits)).tolist()
    assert first > second


@pytest.mark.parametrize("temperature", [0.5, 10.0])
def test_energy_follows_its_temperature(temperature: float, digits: TrainedDigits) -> None:
    logits = float64(digits.near.logits)
    expected = -temperature * np.log(np.exp(logits / temperature).sum(axis=1))
    scores = DETECTORS["energy"](temperature=temperature).score(digits.near)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-9)


# --- TempScale --------------------------------------------------------------------------------------------------------


def scaled(digits: TrainedDigits, **options: Any) -> TempScale:
    """Fitted to a set with mistakes, as the validation set of the digits has none."""
    return TempScale(**options).fit(digits.train, digits.id_test, None)


def cross_entropy(T: float, outputs: NetworkOutputs) -> float:
    log_p = log_softmax(float64(outputs.logits) / T, axis=1)
    return -float(log_p[np.arange(len(outputs)), outputs.labels.numpy()].mean())


def test_temp_scale_finds_the_best_temperature(digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = minimize_scalar(lambda T: cross_entropy(T, digits.id_test), bounds=(0.1, 10), options={"xatol": 1e-10}).x
    T = scaled(digits).temperature
    assert math.isclose(T, expected, rel_tol=1e-6)
    assert cross_entropy(T, digits.id_test) <= min(cross_entropy(T * (1 + e), digits.id_test) for e in (-1e-4, 1e-4))
    monkeypatch.setattr(blocks, "_NUMBERS_PER_BLOCK", 100)
    assert math.isclose(scaled(digits).temperature, T, rel_tol=1e-9)


def test_temp_scale_recovers_a_temperature(digits: TrainedDigits) -> None:
    """Logits that are 7 times too large need a T 7 times as large."""
    val = digits.id_test
    larger = dataclasses.replace(val, logits=7 * val.logits)
    T = TempScale().fit(digits.train, larger, None).temperature
    assert math.isclose(T, 7 * scaled(digits).temperature, rel_tol=1e-6)


def test_temp_scale_scores_by_the_log_odds_of_the_softmax(digits: TrainedDigits) -> None:
    detector = scaled(digits)
    p = softmax(float64(digits.near.logits) / detector.temperature, axis=1).max(axis=1)
    np.testing.assert_allclose(detector.score(digits.near).numpy(), np.log((1 - p) / p), rtol=1e-9, atol=1e-9)


def test_temp_scale_stays_within_its_bounds_where_no_temperature_is_best(digits: TrainedDigits) -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right, wrong = of_logits(logits, torch.tensor([0, 1])), of_logits(logits, torch.tensor([1, 0]))
    assert TempScale().fit(digits.train, right, None).temperature == 0.01
    assert TempScale().fit(digits.train, wrong, None).temperature == 100.0
    still_falling = of_logits(logits / 10, torch.tensor([0, 1]))
    assert TempScale().fit(digits.train, still_falling, None).temperature == 0.01
    # At 0.01 the softmax of most digits is 1 in float64; their log odds differ.
    scores = fitted("temp_scale", digits).score(digits.id_test)
    assert (digits.id_test.logits.double() / 0.01).softmax(dim=1).amax(dim=1).unique().numel() < 0.9 * len(scores)
    assert scores.unique().numel() == len(scores)


def test_temp_scale_follows_openood_on_request(digits: TrainedDigits, pytorch_ood_detectors: ModuleType) -> None:
    """Its recipe, in float32 with autograd; it and pytorch-ood's stop before the best temperature."""
    val = digits.id_test
    temperature = torch.tensor(1.5, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(val.logits / temperature, val.labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    ours = scaled(digits, converged=False)
    assert math.isclose(ours.temperature, temperature.item(), rel_tol=1e-4)
    assert cross_entropy(ours.temperature, val) > cross_entropy(scaled(digits).temperature, val) + 1e-4
    with pytest.raises(EvaluationError, match="temp_scale must be fitted before it scores"):
        scaled(digits).with_setting({"converged": False}).score(val)
    theirs = pytorch_ood_detectors.TemperatureScaling(None).fit_logits(val.logits, val.labels).t.item()
    assert cross_entropy(theirs, val) > cross_entropy(scaled(digits).temperature, val) + 1e-5


# --- GEN --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "M"), [(0.01, 3), (2.0, 1), (0.5, 6), (0.1, 1000)])
def test_gen_sums_over_the_largest_probabilities(gamma: float, M: int, digits: TrainedDigits) -> None:
    p = np.sort(softmax(float64(digits.near.logits), axis=1), axis=1)[:, ::-1][:, :M]
    expected = (p * (1 - p)) ** gamma
    scores = DETECTORS["gen"](gamma=gamma, M=M).score(digits.near)
    np.testing.assert_allclose(scores.numpy(), expected.sum(axis=1), rtol=1e-9)


def test_gen_counts_what_floats_round_to_0_and_1() -> None:
    """By the formula in logarithms: two probabilities of e^-120 and one of 1 - 2 e^-120, to the power of 0.01."""
    logits = torch.tensor([[0.0, -120.0, -120.0]])
    p = logits.softmax(dim=1)
    assert (p * (1 - p)).pow(0.01).sum().item() == 0
    score = DETECTORS["gen"](gamma=0.01).score(of_logits(logits)).item()
    assert math.isclose(score, 2 * math.exp(-1.2) + math.exp(0.01 * (math.log(2) - 120)), rel_tol=1e-9)


# --- KLM --------------------------------------------------------------------------------------------------------------


def test_klm_leaves_out_classes_that_are_never_predicted(digits: TrainedDigits) -> None:
    val = rows(digits.val, (digits.val.logits.argmax(dim=1) != 2).nonzero()[:, 0])
    scores = DETECTORS["klm"]().fit(digits.train, val, None).score(digits.near)
    expected = klm_by_hand(float64(digits.near.logits), float64(val.logits))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_klm_of_logits_far_apart_is_finite() -> None:
    val = of_logits(torch.tensor([[2000.0, 0.0, 0.0], [0.0, 2000.0, 0.0]]))
    detector = DETECTORS["klm"]().fit(val, val, None)
    assert detector.score(val).tolist() == [0.0, 0.0]
    # log of the smallest normal float64 stands for log 0.
    scores = detector.score(of_logits(torch.tensor([[0.0, 0.0, 2000.0]])))
    assert math.isclose(scores.item(), 708.4, rel_tol=1e-3)


# --- OpenMax ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "scale", "shape"),
    [
        ([2.0, 2.1, 2.3, 2.4, 2.8, 3.1, 3.7, 5.0], 2.1868674404262527, 2.186775839769269),
        ([0.5, 0.51, 0.52, 3.0], 1.8510711556412793, 1.679932187912699),
    ],
)
def test_openmax_finds_the_weibull_of_libmr(tail: list[float], scale: float, shape: float) -> None:
    """What libmr 0.1.9 gave, `MR().fit_high(tail, len(tail))`; libmr stops at six digits."""
    detector = OpenMax()
    detector._distances, detector._found = [np.array(tail)], {}
    smallest, our_shape, log_scale = detector._weibulls()[0].tolist()
    assert smallest == tail[0]
    assert math.isclose(our_shape, shape, rel_tol=1e-4)
    assert math.isclose(math.exp(log_scale), scale, rel_tol=1e-4)
    values = np.array(tail) - tail[0] + 1
    likelihood = weibull_min.logpdf(values, our_shape, scale=math.exp(log_scale)).sum()
    assert likelihood >= weibull_min.logpdf(values, shape, scale=scale).sum() - 1e-6


@pytest.mark.parametrize(("tail_size", "alpha"), [(5, 1), (40, 6), (10_000, 2), (20, 9)])
def test_openmax_follows_its_options(tail_size: int, alpha: int, digits: TrainedDigits) -> None:
    detector = fitted("openmax", digits)
    train, labels = float64(digits.train.logits), digits.train.labels.numpy()
    near = rows(digits.near, torch.arange(60))
    expected = openmax_by_hand(float64(near.logits), train, labels, tail_size, alpha)
    scores = detector.with_setting({"tail_size": tail_size, "alpha": alpha}).score(near)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_openmax_learns_from_images_that_are_predicted_right_alone(digits: TrainedDigits) -> None:
    wrong = dataclasses.replace(digits.train, labels=digits.train.labels.clone())
    wrong.labels[::7] = (wrong.labels[::7] + 1) % 6
    right = torch.arange(len(wrong))[wrong.labels == wrong.logits.argmax(dim=1)]
    scores = OpenMax().fit(wrong, digits.val, None).score(digits.near)
    expected = OpenMax().fit(rows(wrong, right), digits.val, None).score(digits.near)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_openmax_takes_logits_that_overflow_a_probability(digits: TrainedDigits) -> None:
    larger = {
        f: dataclasses.replace(getattr(digits, f), logits=200 * getattr(digits, f).logits) for f in ("train", "near")
    }
    scores = OpenMax().fit(larger["train"], digits.val, None).score(larger["near"])
    assert scores.isfinite().all()
    assert scores.unique().numel() == len(scores)


def test_openmax_where_pytorch_ood_lets_the_batch_decide(
    digits: TrainedDigits, pytorch_ood_detectors: ModuleType
) -> None:
    """Theirs scores an image otherwise when it is alone; ours does not, see the laws."""
    theirs = pytorch_ood_detectors.OpenMax(None, tailsize=20, alpha=3)
    theirs.fit_logits(digits.train.logits.double(), digits.train.labels)
    logits = digits.near.logits.double()
    alone = torch.cat([theirs.predict_logits(row[None]) for row in logits[:40]])
    assert (alone - theirs.predict_logits(logits)[:40]).abs().max() > 1e-3


def test_openmax_asks_for_three_images_of_every_class(digits: TrainedDigits) -> None:
    labels = digits.train.labels
    few = rows(digits.train, torch.cat([(labels != 4).nonzero()[:, 0], (labels == 4).nonzero()[:2, 0]]))
    message = (
        r"^detector openmax must have three or more training images of every class .*, got 2 of class 4; train lon"
    )
    with pytest.raises(EvaluationError, match=message):
        OpenMax().fit(few, digits.val, None)
    none = rows(digits.train, (labels != 5).nonzero()[:, 0])
    with pytest.raises(EvaluationError, match=r"not all alike, got 0 of class 5; train longer, or leave openmax out"):
        OpenMax().fit(none, digits.val, None)
    alike = of_logits(torch.eye(2).repeat(9, 1), torch.arange(2).repeat(9))
    with pytest.raises(EvaluationError, match=r"not all alike, got 9 of class 0;"):
        OpenMax().fit(alike, alike, None)


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_laws_of_all_detectors(name: str, digits: TrainedDigits) -> None:
    detector_laws.check_it_says_what_it_is(name)
    detector_laws.check_a_score_is_that_of_its_image_alone(name, digits)
    detector_laws.check_needs_is_all_that_it_reads(name, digits)
    detector_laws.check_nothing_is_written_to(name, digits)
    rtol = 1e-4 if name == "openmax" else 1e-9
    detector_laws.check_order_of_the_training_set_does_not_matter(name, digits, rtol=rtol)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("energy", [{"temperature": 0.5}, {"temperature": 3.0}]),
        ("gen", [*DETECTORS["gen"]().settings(), {}, {"M": 2}]),
        ("openmax", [{"alpha": 1}, {"tail_size": 10}, {}]),
    ],
)
def test_a_sweep_equals_detectors_built_afresh(name: str, settings: list[Any], digits: TrainedDigits) -> None:
    detector_laws.check_a_sweep_equals_detectors_built_afresh(name, digits, settings)


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("msp", 0.95),
        ("temp_scale", 0.94),
        ("max_logit", 0.96),
        ("energy", 0.96),
        ("gen", 0.96),
        ("klm", 0.93),
        ("openmax", 0.78),
    ],
)
def test_outliers_score_higher(name: str, floor: float, digits: TrainedDigits) -> None:
    assert auroc(fitted(name, digits), digits) > floor


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_blocks_does_not_matter(name: str, digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(name, digits).score(digits.near)
    monkeypatch.setattr(blocks, "_NUMBERS_PER_BLOCK", 6 * 7)
    rtol = 1e-4 if name == "openmax" else 1e-9
    torch.testing.assert_close(fitted(name, digits).score(digits.near), whole, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", ["temp_scale", "klm", "openmax"])
def test_scoring_before_fitting_is_refused(name: str, digits: TrainedDigits) -> None:
    detector_laws.check_scoring_before_fitting_is_refused(name, digits)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("energy", {"temperature": 0.0}, r"energy\.temperature must be greater than 0\.0, got 0\.0"),
        ("gen", {"gamma": -1.0}, r"gen\.gamma must be greater than 0\.0, got -1\.0"),
        ("gen", {"M": 0}, r"gen\.M must be .*1, got 0"),
        ("openmax", {"tail_size": 2}, r"openmax\.tail_size must be .*3, got 2"),
        ("openmax", {"alpha": 0}, r"openmax\.alpha must be .*1, got 0"),
        ("msp", {"temperature": 1.0}, r"msp\.temperature must be left out, as msp has no options, got 1\.0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluate\.detector_options\.{message}"):
        build_detectors([name], {name: options})
