"""KNN, NNGuide and Relation, and the laws that all detectors with a bank or class statistics obey."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr
from torch import Tensor
from trained_digits import TrainedDigits

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors import DETECTORS, Detector, Sizes, blocks, knn, nearest, relation
from sio_ray.ood.detectors.knn import KNN
from sio_ray.ood.detectors.nearest import largest_products
from sio_ray.ood.detectors.nnguide import NNGuide
from sio_ray.ood.detectors.relation import Relation
from sio_ray.ood.metrics import ood_metrics
from sio_ray.ood.outputs import NetworkOutputs

Array = npt.NDArray[np.float64]

#: Options that suit 700 training images, and settings to sweep.
OPTIONS: dict[str, dict[str, Any]] = {"nnguide": {"k": 10, "bank_share": 0.5}}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "she": [{}],
    "residual": [{"dim": 30}, {}, {"dim": 47}],
    "vim": [{"dim": 40}, {}, {"dim": 1}],
    "mds": [{}],
    "rmds": [{}],
    "knn": [{"k": 700}, {"k": 1}, {"k": 60}],
    "nnguide": [{"k": 3}, {"bank_share": 1.0}, {"k": 7, "bank_share": 0.1}],
    "relation": [{"power": 8.0}, {"power": 0.5}, {"threshold": 0.0}],
}
NAMES = list(SETTINGS)

#: Near-OOD AUROC on the digits is at least this; measured, less 0.03.
FLOORS = {
    "she": 0.93,
    "residual": 0.8,
    "vim": 0.91,
    "mds": 0.93,
    "rmds": 0.93,
    "knn": 0.92,
    "nnguide": 0.93,
    "relation": 0.93,
}

#: What float32 products leave of the digits; all else is float64.
RTOL = {"nnguide": 1e-5, "relation": 1e-5}


def fitted(name: str, digits: TrainedDigits, **options: Any) -> Detector:
    detector = DETECTORS[name](**{**OPTIONS.get(name, {}), **options})
    return detector.fit(digits.train, digits.val, digits.last_layer)


def everything(digits: TrainedDigits) -> NetworkOutputs:
    """ID test, near-OOD and far-OOD in one set."""
    sets = [digits.id_test, digits.near, digits.far]
    return NetworkOutputs(
        *(torch.cat([getattr(s, name) for s in sets]) for name in ("features", "logits", "labels", "image_ids"))
    )


def rows(outputs: NetworkOutputs, index: Tensor) -> NetworkOutputs:
    return NetworkOutputs(*(getattr(outputs, name)[index] for name in ("features", "logits", "labels", "image_ids")))


def made_up(features: Tensor, logits: Tensor | None = None) -> NetworkOutputs:
    ids = torch.arange(len(features))
    return NetworkOutputs(features, torch.eye(3)[ids % 3] if logits is None else logits, ids % 3, ids)


def near_pairs(num_images: int, noise: float) -> NetworkOutputs:
    """Two clusters of features whose distances are about 5 times the noise."""
    noise_of_each = torch.randn(num_images, 16, generator=torch.Generator().manual_seed(num_images)) * noise
    return made_up(torch.eye(16)[torch.arange(num_images) % 2] + noise_of_each)


def brute_force_knn(outputs: NetworkOutputs, train: NetworkOutputs, k: int) -> Tensor:
    x, bank = (torch.nn.functional.normalize(s.features.double()) for s in (outputs, train))
    return torch.cdist(x, bank, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values[:, k - 1]


# What one detector computes


@pytest.mark.parametrize("k", [1, 7, 50, 700])
def test_knn_measures_the_kth_neighbour(k: int, digits: TrainedDigits) -> None:
    outputs = everything(digits)
    expected = brute_force_knn(outputs, digits.train, k)
    torch.testing.assert_close(fitted("knn", digits, k=k).score(outputs), expected, rtol=1e-9, atol=1e-9)


def test_knn_orders_images_as_pytorch_ood(digits: TrainedDigits, pytorch_ood_detectors: ModuleType) -> None:
    outputs, train = everything(digits), digits.train
    theirs = pytorch_ood_detectors.KNN(None, k=50).fit_features(train.features.double(), train.labels)
    expected = theirs.predict_features(outputs.features.double())
    torch.testing.assert_close(fitted("knn", digits).score(outputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("margin", [256, 6, 1])
def test_knn_keeps_its_digits_where_neighbours_almost_coincide(
    noise: float, margin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 2 - 2 cos is about 25 times the noise's square: at 1e-4 float32 keeps none of its digits. With a small margin
    # some images or all are searched in float64.
    monkeypatch.setattr(knn, "_MARGIN", margin)
    train, test = near_pairs(120, noise), near_pairs(50, noise)
    detector = KNN().fit(train, train, None)
    # The digits that float64 has of 2 - 2 cos.
    rtol = 4e-15 / (25 * noise**2) + 1e-9
    for k, scores in zip((10, 40, 3), detector.score_sweep(test, [{"k": 10}, {"k": 40}, {"k": 3}]), strict=True):
        torch.testing.assert_close(scores, brute_force_knn(test, train, k), rtol=rtol, atol=0)


def test_knn_searches_in_float64_only_what_float32_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: dict[torch.dtype, int] = {}

    def spy(queries: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        searched[queries.dtype] = len(queries)
        return largest_products(queries, *rest)

    monkeypatch.setattr(knn, "largest_products", spy)
    monkeypatch.setattr(knn, "_MARGIN", 4)
    bank = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    train = made_up(torch.cat([bank, near_pairs(100, 1e-5).features]))
    test = made_up(torch.cat([bank[:20] * 3, near_pairs(30, 1e-5).features]))
    torch.testing.assert_close(
        KNN(k=10).fit(train, train, None).score(test), brute_force_knn(test, train, 10), rtol=1e-6, atol=0
    )
    assert searched == {torch.float32: 50, torch.float64: 30}


def test_float32_products_are_within_the_bound_that_knn_trusts() -> None:
    generator = torch.Generator().manual_seed(0)
    for num_features in (2, 24, 512, 2048):
        bank, x = (torch.randn(300, num_features, generator=generator, dtype=torch.float64) for _ in range(2))
        for sign in (bank, bank.abs()):
            y, z = (torch.nn.functional.normalize(f) for f in (sign, x.abs()))
            assert (z.float() @ y.float().T - z @ y.T).abs().max() <= 4 * (num_features**0.5 + 2) * 2.0**-24


def test_knn_takes_a_feature_of_zeros() -> None:
    train = made_up(torch.eye(4))
    assert KNN(k=3).fit(train, train, None).score(made_up(torch.zeros(1, 4))).tolist() == [1.0]
    # A zero row in the bank is at distance 1 of everything: nearer than orthogonal rows at sqrt(2), though no cosine
    # tells it from them.
    train = made_up(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0], [0, 0, 1.0]]))
    detector = KNN(k=2).fit(train, train, None)
    assert detector.score(made_up(torch.tensor([[2.0, 0, 0], [0, 0, 0]]))).tolist() == [1.0, 1.0]
    assert detector.with_setting({"k": 1}).score(made_up(torch.zeros(1, 3))).tolist() == [0.0]


def test_a_search_finds_the_largest_products(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(9, 5, generator=generator), torch.randn(31, 5, generator=generator)
    added = torch.randn(31, generator=generator)
    everywhere = queries @ bank.T + added
    for size in (1, 4, 31, 100):
        monkeypatch.setattr(nearest, "BANK_ROWS_PER_BLOCK", size)
        for count in (1, 6, 31):
            products, found = largest_products(queries, lambda a, b: (bank[a:b], added[a:b]), 31, count)
            torch.testing.assert_close(products, everywhere.topk(count, dim=1).values)
            torch.testing.assert_close(everywhere.gather(1, found), products)
            assert all(len(set(row)) == count for row in found.tolist())


def nnguide_in_numpy(outputs: NetworkOutputs, train: NetworkOutputs, k: int) -> Array:
    x, z = (s.features.double().numpy() for s in (outputs, train))
    energy, train_energy = (logsumexp(s.logits.double().numpy(), axis=1) for s in (outputs, train))
    bank = z / np.linalg.norm(z, axis=1, keepdims=True) * train_energy[:, None]
    similarities = np.sort(x / np.linalg.norm(x, axis=1, keepdims=True) @ bank.T, axis=1)[:, -k:]
    return -energy * similarities.mean(axis=1)


def test_nnguide_equals_numpy_and_pytorch_ood(digits: TrainedDigits, pytorch_ood_detectors: ModuleType) -> None:
    outputs, train, layer = everything(digits), digits.train, digits.last_layer
    scores = fitted("nnguide", digits, bank_share=1.0).score(outputs).numpy()
    np.testing.assert_allclose(scores, nnguide_in_numpy(outputs, train, 10), rtol=1e-5)
    theirs = pytorch_ood_detectors.NNGuide(None, lambda z: z @ layer.weight.T + layer.bias, k=10)
    expected = theirs.fit_features(train.features, train.labels).predict_features(outputs.features)
    assert spearmanr(scores, expected.numpy()).statistic > 0.9999


def test_nnguides_bank_has_every_class_of_a_set_in_order_of_class() -> None:
    # One direction per class, 1000 images of the first, then 1000 of the second, ...: OpenOOD's 1% are of one class.
    labels = torch.arange(6).repeat_interleave(1000)
    train = NetworkOutputs(torch.eye(6)[labels], 5 * torch.eye(6)[labels], labels, torch.arange(6000))
    scores = NNGuide(k=2).fit(train, train, None).score(rows(train, torch.arange(0, 6000, 1000)))
    energy = np.log(np.exp(5) + 5)
    np.testing.assert_allclose(scores.numpy(), -(energy**2), rtol=1e-6)


def test_nnguides_smaller_bank_is_part_of_a_larger_one(digits: TrainedDigits) -> None:
    scores = [fitted("nnguide", digits, k=1, bank_share=share).score(digits.near) for share in (0.1, 0.4, 1.0)]
    assert digits.near.logits.logsumexp(1).min() > 0
    assert (scores[0] >= scores[1]).all()
    assert (scores[1] >= scores[2]).all()
    assert (scores[0] > scores[2]).any()


@pytest.mark.parametrize(("power", "threshold"), [(1.0, 0.03), (6.0, 0.03), (0.5, 0.4)])
def test_relation_equals_numpy(power: float, threshold: float, digits: TrainedDigits) -> None:
    outputs = everything(digits)
    x, z = (s.features.double().numpy() for s in (outputs, digits.train))
    p, q = (softmax(s.logits.double().numpy(), axis=1) for s in (outputs, digits.train))
    cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (z / np.linalg.norm(z, axis=1, keepdims=True)).T
    relations = np.maximum(cosine, 0) * (p @ q.T)
    expected = -np.where(relations > threshold, relations**power, 0).sum(axis=1)
    scores = fitted("relation", digits, power=power, threshold=threshold).score(outputs)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)


def test_an_image_without_relations_scores_zero() -> None:
    train = made_up(torch.eye(3), 20 * torch.eye(3))
    # Opposite; orthogonal; alike, but of another prediction; one relation of cosine 1 and p.q almost 1.
    test = made_up(
        torch.tensor([[-1.0, 0, 0], [0, 0, 0], [3.0, 0, 0], [3.0, 0, 0]]), 20 * torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    )
    scores = Relation().fit(train, train, None).score(test)
    torch.testing.assert_close(scores, torch.tensor([0, 0, 0, -1.0], dtype=torch.float64))


# Laws of all


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_that_of_its_image_alone(name: str, digits: TrainedDigits) -> None:
    detector, outputs = fitted(name, digits), everything(digits)
    index = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(3))[:37]
    whole = detector.score(outputs)
    assert whole.dtype == torch.float64
    assert whole.shape == (len(outputs),)
    rtol = RTOL.get(name, 1e-9)
    torch.testing.assert_close(detector.score(rows(outputs, index)), whole[index], rtol=rtol, atol=1e-9)
    one_by_one = torch.cat([detector.score(rows(outputs, i[None])) for i in index[:5]])
    torch.testing.assert_close(one_by_one, whole[index[:5]], rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_training_set_does_not_matter(name: str, digits: TrainedDigits) -> None:
    shuffled = rows(digits.train, torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(3)))
    detector = DETECTORS[name](**OPTIONS.get(name, {})).fit(shuffled, digits.val, digits.last_layer)
    expected = fitted(name, digits).score(digits.near)
    torch.testing.assert_close(detector.score(digits.near), expected, rtol=RTOL.get(name, 1e-8), atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_do_not_show(name: str, digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = everything(digits)
    expected = fitted(name, digits).score_sweep(outputs, SETTINGS[name])
    for module, constant, size in (
        (nearest, "IMAGES_PER_BLOCK", 64),
        (nearest, "BANK_ROWS_PER_BLOCK", 133),
        (blocks, "_NUMBERS_PER_BLOCK", 131 * 48),
        (knn, "_PAIRS_PER_BLOCK", 17),
        (relation, "_IMAGES_PER_BLOCK", 133),
    ):
        monkeypatch.setattr(module, constant, size)
    for ours, scores in zip(fitted(name, digits).score_sweep(outputs, SETTINGS[name]), expected, strict=True):
        torch.testing.assert_close(ours, scores, rtol=RTOL.get(name, 1e-8), atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_outliers_score_higher(name: str, digits: TrainedDigits) -> None:
    detector = fitted(name, digits)
    id_scores, ood_scores = detector.score(digits.id_test).numpy(), detector.score(digits.near).numpy()
    assert ood_metrics(id_scores, ood_scores).auroc > FLOORS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_equals_detectors_built_afresh(name: str, digits: TrainedDigits) -> None:
    detector = fitted(name, digits)
    before = detector.options
    swept = detector.score_sweep(digits.near, SETTINGS[name])
    for setting, scores in zip(SETTINGS[name], swept, strict=True):
        afresh = fitted(name, digits, **setting).score(digits.near)
        torch.testing.assert_close(scores, afresh, rtol=RTOL.get(name, 1e-9), atol=1e-9)
        assert detector.with_setting(setting).score(digits.near).equal(afresh)
    assert detector.options is before
    assert detector.score(digits.near).equal(fitted(name, digits).score(digits.near))


@pytest.mark.parametrize("name", NAMES)
def test_needs_is_all_that_a_detector_reads(name: str, digits: TrainedDigits) -> None:
    detector = DETECTORS[name](**OPTIONS.get(name, {}))

    def only_needed(outputs: NetworkOutputs) -> NetworkOutputs:
        unread = {"features", "logits"} - detector.needs
        return dataclasses.replace(outputs, **{f: torch.full_like(getattr(outputs, f), torch.nan) for f in unread})

    last_layer = digits.last_layer if "last_layer" in detector.needs else None
    sets = only_needed(digits.train), only_needed(digits.val)
    assert (
        detector.fit(*sets, last_layer).score(only_needed(digits.near)).equal(fitted(name, digits).score(digits.near))
    )


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_left_as_they_were(name: str, digits: TrainedDigits) -> None:
    # float64 on the CPU: nothing has to be moved or converted, so nothing hides a write.
    train, near = (
        dataclasses.replace(s, features=s.features.double(), logits=s.logits.double())
        for s in (digits.train, digits.near)
    )
    copies = [(s.features.clone(), s.logits.clone(), s.labels.clone()) for s in (train, near)]
    DETECTORS[name](**OPTIONS.get(name, {})).fit(train, digits.val, digits.last_layer).score(near)
    for outputs, (features, logits, labels) in zip((train, near), copies, strict=True):
        assert outputs.features.equal(features)
        assert outputs.logits.equal(logits)
        assert outputs.labels.equal(labels)


@pytest.mark.parametrize("name", NAMES)
def test_scoring_before_fitting_is_refused(name: str, digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=f"detector {name} must be fitted before it scores; call fit"):
        DETECTORS[name]().score(digits.near)


@pytest.mark.parametrize(
    ("name", "options", "refusal"),
    [
        ("knn", {"k": 701}, "k must be at most the number of training images, 700, got 701"),
        (
            "nnguide",
            {"k": 8, "bank_share": 0.01},
            "k must be at most the size of the bank, 7 (bank_share 0.01 of 700 training images), got 8",
        ),
        ("vim", {"dim": 48}, "dim must be less than the feature dimension, 48, got 48"),
        ("residual", {"dim": 512}, "dim must be less than the feature dimension, 48, got 512"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    name: str, options: dict[str, Any], refusal: str, digits: TrainedDigits
) -> None:
    sizes = Sizes.of(digits.train)
    assert DETECTORS[name](**options).refusal(sizes) == refusal
    with pytest.raises(EvaluationError) as error:
        fitted(name, digits, **options).score(digits.near)
    assert str(error.value).startswith(f"evaluate.detector_options.{name}.{refusal}; give a smaller ")
    least = {option: value - 1 for option, value in options.items() if option in ("k", "dim")}
    if name != "residual":
        assert DETECTORS[name](**{**options, **least}).refusal(sizes) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("knn", {"k": 0}, r"evaluate\.detector_options\.knn\.k must be .*1, got 0"),
        ("nnguide", {"bank_share": 0.0}, r"evaluate\.detector_options\.nnguide\.bank_share must be .*0, got 0\.0"),
        ("relation", {"power": 0.0}, r"evaluate\.detector_options\.relation\.power must be .*0, got 0\.0"),
        ("vim", {"dim": 0}, r"evaluate\.detector_options\.vim\.dim must be .*1, got 0"),
        ("residual", {"dim": 0}, r"evaluate\.detector_options\.residual\.dim must be .*1, got 0"),
        ("mds", {"ridge": 1e-6}, r"evaluate\.detector_options\.mds\.ridge must be left out, as mds has no options"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DETECTORS[name](**options)


def test_sweeps_are_those_of_openood() -> None:
    assert [s["k"] for s in KNN().settings()] == [50, 100, 200, 500, 1000]
    assert [s["power"] for s in Relation().settings()] == [1, 2, 4, 6, 8]
    # The authors' rule first, which suits a network of any width.
    assert [s["dim"] for s in DETECTORS["vim"]().settings()] == [None, 256, 1000]
    for name in ("she", "residual", "mds", "rmds", "nnguide"):
        assert DETECTORS[name]().settings() == [{}]
