"""Detectors of features and the last layer against NumPy written here, pytorch-ood, and the laws of all detectors."""

from __future__ import annotations

import dataclasses
import pickle
from types import ModuleType
from typing import Any

import detector_laws
import numpy as np
import pytest
import torch
from detector_laws import Array, auroc, everything, fitted, made_up
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr
from torch import Tensor, nn
from trained_digits import TrainedDigits

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors import DETECTORS, Sizes, blocks, build_detectors
from sio_ray.ood.detectors.shaping import Percentiles
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

NAMES = ["react", "dice", "ash", "scale", "vra", "nci", "fdbd", "grad_norm"]

#: One setting beside the defaults.
OTHERS: dict[str, dict[str, Any]] = {
    "react": {"percentile": 62.5},
    "dice": {"p": 33.0},
    "ash": {"percentile": 65.0},
    "scale": {"percentile": 70.0},
    "vra": {"percentile_high": 85.0, "percentile_low": 45.0},
    "nci": {"alpha": 0.3},
    "fdbd": {"distance_as_normalizer": False},
    "grad_norm": {},
}


def float64(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def by_hand(name: str, outputs: NetworkOutputs, digits: TrainedDigits, options: dict[str, Any]) -> Array:
    """Every score once more, image by image where that is plainer."""
    W, b = float64(digits.last_layer.weight), float64(digits.last_layer.bias)
    X, Z = float64(outputs.features), float64(outputs.logits)
    mean, val = float64(digits.train.features).mean(axis=0), float64(digits.val.features)
    predicted = Z.argmax(axis=1)

    def energy(H: Array, weight: Array = W) -> Array:
        return -logsumexp(H @ weight.T + b, axis=1)

    if name == "react":
        return energy(np.minimum(X, np.percentile(val, options.get("percentile", 90))))
    if name == "vra":
        high = np.percentile(val, options.get("percentile_high", 90))
        low = np.percentile(val, options.get("percentile_low", 10))
        return energy(np.minimum(X, high) * (low <= X))
    if name == "dice":
        contributions = W * mean
        return energy(X, np.where(contributions > np.percentile(contributions, options.get("p", 90)), W, 0))
    if name in ("ash", "scale"):
        dropped = int(np.round(len(W[0]) * options.get("percentile", 90 if name == "ash" else 85) / 100))
        rows = []
        for x in X:
            kept = np.argsort(-x, kind="stable")[: len(x) - dropped]
            if name == "ash":
                rows.append(np.isin(np.arange(len(x)), kept) * x.sum() / len(kept))
            else:
                rows.append(x * np.exp(x.sum() / x[kept].sum()))
        return energy(np.array(rows))
    if name == "nci":
        closeness = ((X - mean) * W[predicted]).sum(axis=1) / np.linalg.norm(X - mean, axis=1)
        return -closeness - options.get("alpha", 1e-4) * np.abs(X).sum(axis=1)
    if name == "fdbd":
        origin = mean if options.get("distance_as_normalizer", True) else 0
        scores = []
        for x, z, k in zip(X, Z, predicted, strict=True):
            others = [c for c in range(len(W)) if c != k]
            distances = [abs(z[k] - z[c]) / np.linalg.norm(W[k] - W[c]) for c in others]
            scores.append(-sum(distances) / np.linalg.norm(x - origin))
        return np.array(scores)
    assert name == "grad_norm"
    gradients = (len(W) * softmax(Z, axis=1) - 1)[:, :, None] * X[:, None]
    return -np.abs(gradients).sum(axis=(1, 2))


@pytest.mark.parametrize("is_default", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_equals_numpy(name: str, is_default: bool, digits: TrainedDigits) -> None:
    outputs, options = everything(digits), {} if is_default else OTHERS[name]
    scores = fitted(name, digits, **options).score(outputs).numpy()
    np.testing.assert_allclose(scores, by_hand(name, outputs, digits, options), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "scale"])
def test_equals_numpy_where_features_are_negative(name: str, digits: TrainedDigits) -> None:
    """As those of networks that do not end in a ReLU."""
    shifted = {
        field: dataclasses.replace(getattr(digits, field), features=getattr(digits, field).features - 0.4)
        for field in ("train", "val", "near")
    }
    moved = dataclasses.replace(digits, **shifted)
    scores = fitted(name, moved).score(moved.near).numpy()
    np.testing.assert_allclose(scores, by_hand(name, moved.near, moved, {}), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_orders_images_as_pytorch_ood(name: str, digits: TrainedDigits, pytorch_ood_detectors: ModuleType) -> None:
    outputs, theirs = everything(digits), pytorch_ood_detectors
    W, b = digits.last_layer.weight, digits.last_layer.bias
    head = nn.Linear(W.shape[1], W.shape[0])
    head.load_state_dict({"weight": W, "bias": b})
    head = head.double() if name in ("react", "ash", "scale", "grad_norm") else head
    x, val, train, labels = (
        outputs.features.double(),
        digits.val.features.double(),
        digits.train.features,
        digits.train.labels,
    )

    def through(detector: Any) -> Tensor:
        return detector.predict_feature_maps(x[:, :, None, None])

    def flat(maps: Tensor) -> Tensor:
        return head(maps.flatten(1))

    scores = {
        "react": lambda: theirs.ReAct(None, head).fit_feature_maps(val, digits.val.labels).predict_feature_maps(x),
        "dice": lambda: theirs.DICE(None, W, b, 0.9).fit_features(train, labels).predict_features(outputs.features),
        "ash": lambda: through(theirs.ASH(None, flat, variant="ash-b", percentile=0.9)),
        "scale": lambda: through(theirs.SCALE(None, flat, percentile=0.85)),
        "vra": lambda: _vra_of_pytorch_ood(theirs, digits, head, outputs),
        "nci": lambda: theirs.NCI(None, head, 1e-4).fit_features(train).predict_features(outputs.features),
        "fdbd": lambda: theirs.fDBD(None, head).fit_features(train).predict_features(outputs.features),
        "grad_norm": lambda: theirs.GradNorm(head, param_filter=lambda n: n == "weight").predict(x),
    }[name]()
    ours = fitted(name, digits, **({"raise_low": True} if name == "vra" else {})).score(outputs)
    assert spearmanr(ours.numpy(), scores.detach().numpy()).statistic > 0.9999


def _vra_of_pytorch_ood(theirs: ModuleType, digits: TrainedDigits, head: nn.Linear, outputs: NetworkOutputs) -> Tensor:
    """Its clipping, with our thresholds over all features for its own of every feature."""
    detector = theirs.VRA(None, head)
    detector._lower_threshold, detector._upper_threshold = (
        torch.tensor(np.percentile(digits.val.features.numpy(), p)) for p in (10, 90)
    )
    return detector.predict_feature_maps(outputs.features)


# --- where definitions differ -----------------------------------------------------------------------------------------


def test_vra_drops_small_features_as_the_paper_does_and_openood_does_not() -> None:
    # The paper's VRA-P is 0 below the lower threshold; l = 1 and t = 3 here, and the energy of one class is -h.
    layer = LastLayer(torch.ones(1, 1), torch.zeros(1))
    val = made_up(torch.arange(0.0, 5.0)[:, None], layer)
    images = made_up(torch.tensor([[0.5], [1.0], [2.0], [9.0]]), layer)
    options = {"percentile_low": 25.0, "percentile_high": 75.0}
    scores = DETECTORS["vra"](**options).fit(val, val, layer).score(images)
    assert scores.tolist() == [0.0, -1.0, -2.0, -3.0]
    raised = DETECTORS["vra"](**options, raise_low=True).fit(val, val, layer).score(images)
    assert raised.tolist() == [-1.0, -1.0, -2.0, -3.0]


def test_vra_and_react_agree_where_the_low_percentile_is_0(digits: TrainedDigits) -> None:
    assert (digits.val.features == 0).float().mean() > 0.1
    for options in ({}, {"raise_low": True}):
        assert fitted("vra", digits, **options).score(digits.near).equal(fitted("react", digits).score(digits.near))


def test_ash_takes_equal_features_from_the_front() -> None:
    layer = LastLayer(torch.eye(4), torch.zeros(4))
    images = made_up(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0]]), layer)
    detector = DETECTORS["ash"](percentile=50).fit(images, images, layer)
    expected = [-logsumexp([2, 2, 0, 0]), -logsumexp([1.5, 1.5, 0, 0])]
    np.testing.assert_allclose(detector.score(images).numpy(), expected)


def test_ash_keeps_the_sum_and_scale_the_direction(digits: TrainedDigits) -> None:
    features = digits.near.features.double()
    for name in ("ash", "scale"):
        detector = DETECTORS[name]()
        (shaped,) = detector.shaped(features, [detector.options])
        if name == "ash":
            torch.testing.assert_close(shaped.sum(dim=1), features.sum(dim=1))
            assert (shaped.count_nonzero(dim=1) == 48 - 43).all()
        else:
            torch.testing.assert_close(nn.functional.normalize(shaped), nn.functional.normalize(features))
            assert (shaped.sum(dim=1) > np.e * features.sum(dim=1) * 0.999).all()


def test_scale_takes_features_of_zeros() -> None:
    layer = LastLayer(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))
    images = made_up(torch.zeros(2, 3), layer)
    scores = DETECTORS["scale"](percentile=50).fit(images, images, layer).score(images)
    np.testing.assert_allclose(scores.numpy(), -logsumexp([1, 2, 3]))


def test_scale_refuses_a_ratio_that_overflows() -> None:
    layer = LastLayer(torch.eye(2), torch.zeros(2))
    images = made_up(torch.tensor([[-5.0, 1e-4]]), layer)
    detector = DETECTORS["scale"](percentile=50).fit(images, images, layer)
    detector.score(images)  # a negative ratio, of a negative sum, is small
    images = made_up(torch.tensor([[5.0, 3.0], [-5.0, -1e-4]]), layer)
    with pytest.raises(
        EvaluationError, match=r"^detector scale must be .* a sum above 0, got a ratio of 5e\+04 to .*; le"
    ):
        detector.score(images)


def test_dice_without_a_mask_is_energy(digits: TrainedDigits) -> None:
    far = digits.far
    features = far.features + 1  # so that every contribution of a positive weight is above the lowest
    layer = LastLayer(digits.last_layer.weight.abs() + 1, digits.last_layer.bias)
    images = made_up(features, layer)
    scores = DETECTORS["dice"](p=0).fit(images, images, layer).score(images)
    # p = 0 drops the one smallest contribution.
    contributions = layer.weight.double() * features.double().mean(dim=0)
    weight = layer.weight.double().clone().flatten()
    weight[contributions.argmin()] = 0
    expected = -(features.double() @ weight.view_as(contributions).T + layer.bias).logsumexp(dim=1)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)


def test_grad_norm_is_the_gradient_of_the_last_layer(digits: TrainedDigits) -> None:
    """By autograd image by image, as OpenOOD v1.5."""
    weight, bias = (t.detach().double() for t in (digits.last_layer.weight, digits.last_layer.bias))
    weight.requires_grad_()
    norms = []
    for x in digits.near.features[:20].double():
        loss = -(weight @ x + bias).log_softmax(dim=0).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        norms.append(-gradient.abs().sum().item())
    scores = fitted("grad_norm", digits).score(digits.near)[:20]
    np.testing.assert_allclose(scores.numpy(), norms, rtol=1e-4)  # the network's logits are float32


@pytest.mark.parametrize("name", ["nci", "fdbd"])
def test_a_feature_at_the_mean_has_a_finite_score(name: str) -> None:
    layer = LastLayer(torch.eye(2), torch.zeros(2))
    train = made_up(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), layer)
    middle = made_up(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), layer)
    for setting in DETECTORS[name]().settings():
        assert DETECTORS[name](**setting).fit(train, train, layer).score(middle).isfinite().all()


def test_percentiles_are_those_of_numpy(rng: np.random.Generator) -> None:
    for size in (1, 2, 5, 1000):
        array = rng.normal(size=(size, 3)).astype(np.float32)
        of = Percentiles(torch.from_numpy(array))
        for p in (0, 1, 10, 33.3, 50, 99, 99.99, 100):
            assert np.isclose(of(p), np.percentile(array.astype(np.float64), p), rtol=1e-12, atol=1e-15)


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_laws_of_all_detectors(name: str, digits: TrainedDigits) -> None:
    detector_laws.check_it_says_what_it_is(name)
    detector_laws.check_a_score_is_that_of_its_image_alone(name, digits)
    detector_laws.check_needs_is_all_that_it_reads(name, digits)
    detector_laws.check_nothing_is_written_to(name, digits)
    detector_laws.check_order_of_the_training_set_does_not_matter(name, digits)
    settings = [*DETECTORS[name]().settings(), OTHERS[name], {}]
    detector_laws.check_a_sweep_equals_detectors_built_afresh(name, digits, settings)


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("react", 0.96),
        ("dice", 0.76),
        ("ash", 0.95),
        ("scale", 0.9),
        ("vra", 0.96),
        ("nci", 0.92),
        ("fdbd", 0.9),
        ("grad_norm", 0.95),
    ],
)
def test_outliers_score_higher(name: str, floor: float, digits: TrainedDigits) -> None:
    assert auroc(fitted(name, digits), digits) > floor


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_blocks_does_not_matter(name: str, digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(name, digits).score(digits.near)
    monkeypatch.setattr(blocks, "_NUMBERS_PER_BLOCK", 48 * 7 + 1)
    torch.testing.assert_close(fitted(name, digits).score(digits.near), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_fitted_detector_can_be_sent_to_another_process(name: str, digits: TrainedDigits) -> None:
    detector = fitted(name, digits)
    assert pickle.loads(pickle.dumps(detector)).score(digits.near).equal(detector.score(digits.near))  # noqa: S301


@pytest.mark.parametrize("name", NAMES)
def test_a_last_layer_is_asked_for(name: str, digits: TrainedDigits) -> None:
    with pytest.raises(
        EvaluationError, match=f"^detector {name} must be given a linear last layer, got None; leave it"
    ):
        DETECTORS[name]().fit(digits.train, digits.val, None)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "grad_norm"])
def test_scoring_before_fitting_is_refused(name: str, digits: TrainedDigits) -> None:
    detector_laws.check_scoring_before_fitting_is_refused(name, digits)


def test_fdbd_refuses_classes_without_a_boundary(digits: TrainedDigits) -> None:
    weight = digits.last_layer.weight.clone()
    weight[4] = weight[1]
    layer = dataclasses.replace(digits.last_layer, weight=weight)
    with pytest.raises(EvaluationError, match=r"whose classes differ, got the same weights for classes 1 and 4; leave"):
        DETECTORS["fdbd"]().fit(digits.train, digits.val, layer)


@pytest.mark.parametrize(
    ("name", "options", "refusal"),
    [
        ("ash", {"percentile": 90}, None),
        ("ash", {"percentile": 95}, r"percentile must leave one or more of the 8 features, got 95"),
        ("scale", {"percentile": 99}, r"percentile must leave one or more of the 8 features, got 99"),
        ("scale", {"percentile": 65}, None),
        ("vra", {}, None),
        (
            "vra",
            {"percentile_low": 90, "percentile_high": 90},
            "percentile_low must be less than percentile_high, 90, got 90",
        ),
        ("react", {}, None),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, options: dict[str, Any], refusal: str | None) -> None:
    assert DETECTORS[name](**options).refusal(Sizes(num_train=30, num_features=8, num_classes=3)) == refusal


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("react", {"percentile": 101}, r"react\.percentile must be .*100.*, got 101"),
        ("dice", {"p": 100}, r"dice\.p must be less than 100.*, got 100"),
        ("ash", {"percentile": 100}, r"ash\.percentile must be less than 100.*, got 100"),
        ("scale", {"percentile": 99.5}, r"scale\.percentile must be .*99.*, got 99\.5"),
        ("vra", {"percentile_low": -1}, r"vra\.percentile_low must be .*0.*, got -1"),
        ("nci", {"alpha": -0.1}, r"nci\.alpha must be .*0.*, got -0\.1"),
        ("fdbd", {"distance_as_normalizer": "maybe"}, r"fdbd\.distance_as_normalizer must be .*, got 'maybe'"),
        ("grad_norm", {"temperature": 1}, r"grad_norm\.temperature must be left out, as grad_norm has no options"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluate\.detector_options\.{message}"):
        build_detectors([name], {name: options})
