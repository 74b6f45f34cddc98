"""Detectors against pytorch-ood, against float64 NumPy written here, and against laws that all of them obey."""

from __future__ import annotations

import copy
import dataclasses
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr
from torch import Tensor, nn
from trained_digits import STD, TrainedDigits

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors import DETECTORS, Detector, build_detectors, knn, vim
from sio_ray.ood.detectors.energy import Energy
from sio_ray.ood.detectors.knn import KNN
from sio_ray.ood.detectors.max_logit import MaxLogit
from sio_ray.ood.detectors.msp import MSP
from sio_ray.ood.detectors.odin import ODIN, perturb
from sio_ray.ood.detectors.vim import ViM
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

Array = npt.NDArray[np.float64]


def fitted(detector: Detector, digits: TrainedDigits) -> Detector:
    return detector.fit(digits.train, digits.last_layer)


def everything(digits: TrainedDigits) -> NetworkOutputs:
    """ID test, near-OOD and far-OOD in one set."""
    sets = [digits.id_test, digits.near, digits.far]
    return NetworkOutputs(
        *(torch.cat([getattr(s, field.name) for s in sets]) for field in dataclasses.fields(NetworkOutputs))
    )


def rows(outputs: NetworkOutputs, index: Tensor) -> NetworkOutputs:
    return NetworkOutputs(*(getattr(outputs, field.name)[index] for field in dataclasses.fields(NetworkOutputs)))


def made_up(features: Tensor, num_classes: int = 3) -> tuple[NetworkOutputs, LastLayer]:
    """Outputs of a random last layer on given features."""
    generator = torch.Generator().manual_seed(1)
    num_images, num_features = features.shape
    layer = LastLayer(
        torch.randn(num_classes, num_features, generator=generator), torch.randn(num_classes, generator=generator)
    )
    logits = features @ layer.weight.T + layer.bias
    ids = torch.arange(num_images)
    return NetworkOutputs(features, logits, ids % num_classes, ids, logits), layer


def reference(name: str, outputs: NetworkOutputs, digits: TrainedDigits) -> Array:
    """Every score once more, naively, in float64 NumPy."""
    logits = outputs.logits.double().numpy()
    features, train = outputs.features.double().numpy(), digits.train.features.double().numpy()
    if name == "msp":
        return -softmax(logits, axis=1).max(axis=1)
    if name == "max_logit":
        return -logits.max(axis=1)
    if name == "energy":
        return -logsumexp(logits, axis=1)
    if name == "odin":
        assert outputs.perturbed_logits is not None
        return -softmax(outputs.perturbed_logits.double().numpy() / 1000, axis=1).max(axis=1)
    if name == "knn":
        x, bank = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (features, train))
        return np.sort(np.linalg.norm(x[:, None] - bank[None], axis=2), axis=1)[:, 49]
    assert name == "vim"
    W, b = digits.last_layer.weight.double().numpy(), digits.last_layer.bias.double().numpy()
    u = -np.linalg.pinv(W) @ b
    # The right singular vectors of the centred features, where ours takes eigenvectors of their second moment.
    R = np.linalg.svd(train - u, full_matrices=True)[2][24:]
    alpha = (train @ W.T + b).max(axis=1).mean() / np.linalg.norm((train - u) @ R.T, axis=1).mean()
    return alpha * np.linalg.norm((features - u) @ R.T, axis=1) - logsumexp(features @ W.T + b, axis=1)


@pytest.mark.parametrize("name", DETECTORS)
def test_equals_numpy(name: str, digits: TrainedDigits) -> None:
    outputs = everything(digits)
    scores = fitted(DETECTORS[name](), digits).score(outputs)
    assert scores.dtype == torch.float64
    assert scores.shape == (len(outputs),)
    # ViM's reference makes the logits again in float64; the network made them in float32.
    atol = 1e-5 if name == "vim" else 1e-9
    np.testing.assert_allclose(scores.numpy(), reference(name, outputs, digits), rtol=1e-9, atol=atol)


@pytest.mark.parametrize("name", DETECTORS)
def test_orders_images_as_pytorch_ood(name: str, digits: TrainedDigits, pytorch_ood_detectors: ModuleType) -> None:
    outputs, theirs = everything(digits), pytorch_ood_detectors
    # float64 in, as their float32 softmax ties confident images; ViM is float32 inside.
    logits, features = outputs.logits.double(), outputs.features.double()
    train, labels = digits.train.features.double(), digits.train.labels
    if name == "msp":
        scores = theirs.MaxSoftmax(None).predict_logits(logits)
    elif name == "max_logit":
        scores = theirs.MaxLogit(None).predict_logits(logits)
    elif name == "energy":
        scores = theirs.EnergyBased(None).predict_logits(logits)
    elif name == "knn":
        scores = theirs.KNN(None, k=50).fit_features(train, labels).predict_features(features)
    elif name == "odin":
        images = digits.id_images[800:]
        outputs, network = digits.id_test, copy.deepcopy(digits.network).double()
        scores = theirs.ODIN(network, norm_std=[STD])(images.double())
    else:
        layer = digits.last_layer
        detector = theirs.ViM(None, d=24, w=layer.weight, b=layer.bias)
        scores = detector.fit_features(digits.train.features, labels).predict_features(outputs.features)
    ours = fitted(DETECTORS[name](), digits).score(outputs)
    assert spearmanr(ours.numpy(), scores.numpy()).statistic > 0.9999


@pytest.mark.parametrize("temperature", [0.5, 10.0])
def test_energy_follows_its_temperature(temperature: float, digits: TrainedDigits) -> None:
    logits = digits.near.logits.double().numpy()
    expected = -temperature * np.log(np.exp(logits / temperature).sum(axis=1))
    np.testing.assert_allclose(Energy(temperature).score(digits.near).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("k", [1, 7, 800])
def test_knn_measures_the_kth_neighbour(k: int, digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    x, bank = (torch.nn.functional.normalize(s.features.double()) for s in (digits.near, digits.train))
    expected = torch.cdist(x, bank, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values[:, k - 1]
    whole = fitted(KNN(k), digits).score(digits.near)
    torch.testing.assert_close(whole, expected, rtol=1e-9, atol=1e-7)
    # Blocks that divide nothing evenly, the last of the bank smaller than k.
    monkeypatch.setattr(knn, "_IMAGES_PER_BLOCK", 64)
    monkeypatch.setattr(knn, "_BANK_ROWS_PER_BLOCK", 133)
    torch.testing.assert_close(fitted(KNN(k), digits).score(digits.near), whole, rtol=1e-9, atol=1e-7)


def test_knn_keeps_its_digits_where_neighbours_almost_coincide() -> None:
    # Two clusters whose distances are about 5e-4: 2 - 2 cos in float32 would keep no digit of them.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 16, generator=generator) * 1e-4
    features = torch.eye(16)[torch.arange(60) % 2] + noise
    train, layer = made_up(features[:40])
    test, _ = made_up(features[40:])
    x, bank = (torch.nn.functional.normalize(f.features.double()) for f in (test, train))
    expected = torch.cdist(x, bank, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values[:, 9]
    torch.testing.assert_close(KNN(10).fit(train, layer).score(test), expected, rtol=1e-6, atol=0)


def test_knn_takes_a_feature_of_zeros() -> None:
    train, layer = made_up(torch.eye(4))
    test, _ = made_up(torch.zeros(1, 4))
    assert KNN(3).fit(train, layer).score(test).tolist() == [1.0]
    # A zero row in the bank is at distance 1 of everything: nearer than orthogonal rows at sqrt(2), though no cosine
    # tells it from them.
    train, layer = made_up(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0], [0, 0, 1.0]]))
    test, _ = made_up(torch.tensor([[2.0, 0, 0]]))
    assert KNN(2).fit(train, layer).score(test).tolist() == [1.0]


@pytest.mark.parametrize("name", ["knn", "vim"])
def test_order_of_the_training_set_does_not_matter(name: str, digits: TrainedDigits) -> None:
    shuffled = rows(digits.train, torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(3)))
    ours = DETECTORS[name]().fit(shuffled, digits.last_layer).score(digits.near)
    torch.testing.assert_close(ours, fitted(DETECTORS[name](), digits).score(digits.near), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_is_that_of_its_image_alone(name: str, digits: TrainedDigits) -> None:
    detector, outputs = fitted(DETECTORS[name](), digits), everything(digits)
    index = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(3))[:37]
    whole = detector.score(outputs)[index]
    torch.testing.assert_close(detector.score(rows(outputs, index)), whole, rtol=1e-6, atol=1e-7)
    one_by_one = torch.cat([detector.score(rows(outputs, i[None])) for i in index[:5]])
    torch.testing.assert_close(one_by_one, whole[:5], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", DETECTORS)
def test_outliers_score_higher(name: str, digits: TrainedDigits) -> None:
    detector = fitted(DETECTORS[name](), digits)
    id_scores, ood_scores = detector.score(digits.id_test), detector.score(digits.near)
    wins = (ood_scores[:, None] > id_scores[None]).double().mean()
    assert wins > 0.8


def test_vim_rises_with_the_residual_alone(digits: TrainedDigits) -> None:
    detector = fitted(ViM(8), digits)
    centred = (
        digits.train.features.double()
        + torch.linalg.pinv(digits.last_layer.weight.double()) @ digits.last_layer.bias.double()
    )
    least = torch.linalg.svd(centred, full_matrices=True).Vh[-1].float()
    moved = dataclasses.replace(digits.id_test, features=digits.id_test.features + 50 * least)
    assert (detector.score(moved) > detector.score(digits.id_test)).all()


@pytest.mark.parametrize(
    ("num_features", "dim"), [(48, 24), (512, 256), (767, 383), (768, 512), (2047, 512), (2048, 1000)]
)
def test_vim_default_dim_is_that_of_the_authors(num_features: int, dim: int) -> None:
    assert vim.default_dim(num_features) == dim


def test_perturbation_equals_autograd_written_out(digits: TrainedDigits) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(9, 3, 8, 8, generator=generator)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5))
    std = [0.2, 0.5, 0.9]
    result = perturb(images, network, std=std, temperature=100.0, epsilon=0.01)
    for image, moved in zip(images, result, strict=True):
        x = image[None].clone().requires_grad_()
        log_p = (network(x) / 100.0).log_softmax(dim=1)
        log_p.max().backward()  # the largest log p is the predicted class's; its ascent is the loss's descent
        for channel in range(3):
            expected = image[channel] + 0.01 / std[channel] * x.grad[0, channel].sign()
            torch.testing.assert_close(moved[channel], expected)


def test_perturbation_takes_a_zero_gradient_for_positive(digits: TrainedDigits) -> None:
    # As OpenOOD v1.5: the sign is 2 * (gradient >= 0) - 1.
    images = torch.ones(2, 1, 2, 2)
    moved = perturb(images, lambda x: x.flatten(1)[:, :2] * torch.tensor([0.0, 1.0]), std=[0.5], epsilon=0.1)
    # Class 1 wins by pixel 1, whose gradient of the loss is negative; the others have none.
    torch.testing.assert_close(moved.flatten(1), torch.tensor([[0.8, 1.2, 0.8, 0.8]] * 2))


def test_perturbation_makes_the_network_more_certain_and_leaves_it_as_it_was(digits: TrainedDigits) -> None:
    network = digits.network
    with torch.inference_mode():
        images = digits.id_images[:50].clone()
        moved = perturb(images, network, std=[STD], temperature=1000.0, epsilon=0.01)
        before, after = network(images), network(moved)
    assert not moved.requires_grad
    assert moved.dtype == images.dtype
    torch.testing.assert_close((moved - images).abs(), torch.full_like(images, 0.01 / STD), rtol=1e-4, atol=0)
    assert ((after / 1000).softmax(1).amax(1) >= (before / 1000).softmax(1).amax(1)).all()
    torch.testing.assert_close(perturb(images, network, std=[STD], epsilon=0.0), images)
    alone = perturb(images[7:8], network, std=[STD], temperature=1000.0, epsilon=0.01)
    torch.testing.assert_close(alone, moved[7:8])


def test_perturbation_leaves_the_gradients_of_parameters_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    network[1].weight.grad = torch.ones(2, 4)
    with torch.no_grad():
        perturb(torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)), network, std=[0.5])
    assert network[1].weight.grad.eq(1).all()
    assert network[1].bias.grad is None


def test_perturbation_refuses_another_number_of_channels(digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=r"shape \(B, 3, H, W\) for 3 .*, got \(2, 1, 8, 8\); give the std"):
        perturb(digits.id_images[:2], digits.network, std=[0.2, 0.2, 0.2])
    with pytest.raises(EvaluationError, match=r"perturb\.std must be greater than 0, got \[0\.0\]; give"):
        perturb(digits.id_images[:2], digits.network, std=[0.0])


def test_the_table_is_whole() -> None:
    fields = {"features", "logits", "perturbed_logits", "last_layer"}
    for name, detector in DETECTORS.items():
        assert detector.name == name
        assert detector.title
        assert "arXiv:" in detector.paper
        assert detector.needs
        assert detector.needs <= fields


@pytest.mark.parametrize("name", DETECTORS)
def test_needs_is_all_that_a_detector_reads(name: str, digits: TrainedDigits) -> None:
    """A set whose other fields are NaN gets the same scores, and so it does without a last layer."""
    detector = DETECTORS[name]

    def only_needed(outputs: NetworkOutputs) -> NetworkOutputs:
        unread = {"features", "logits", "perturbed_logits"} - detector.needs
        return dataclasses.replace(outputs, **{f: torch.full_like(getattr(outputs, f), torch.nan) for f in unread})

    last_layer = digits.last_layer if "last_layer" in detector.needs else None
    scores = detector().fit(only_needed(digits.train), last_layer).score(only_needed(digits.near))
    assert scores.equal(fitted(detector(), digits).score(digits.near))


def test_build_detectors_keeps_the_order() -> None:
    assert [type(d) for d in build_detectors(["vim", "msp", "max_logit"])] == [ViM, MSP, MaxLogit]


def test_build_detectors_names_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.detectors must be among msp, .*, got 'vmi'; did you mean vim\.$"):
        build_detectors(["msp", "vmi"])
    with pytest.raises(ConfigError, match=r"tune\.detectors must be among .*, got 'xyz'; choose from these\.$"):
        build_detectors(["xyz"], field="tune.detectors")
    with pytest.raises(ConfigError, match=r"without repeats, got \['knn', 'msp', 'knn'\]; name each detector once"):
        build_detectors(["knn", "msp", "knn"])
    with pytest.raises(ConfigError, match=r"evaluate\.detectors must be one or more names .*, got \[\]; name"):
        build_detectors([])


def test_a_detector_of_the_last_layer_is_refused_where_there_is_none(digits: TrainedDigits) -> None:
    assert len(build_detectors(["msp", "knn"], has_last_layer=False)) == 2
    with pytest.raises(ConfigError) as config_error:
        build_detectors(["msp", "vim"], has_last_layer=False)
    assert str(config_error.value) == (
        "evaluate.detectors must be among msp, max_logit, energy, knn, odin for ensembles and heads that are not "
        "linear, got 'vim'; it reads the last layer's weights: leave it out."
    )
    with pytest.raises(EvaluationError) as error:
        ViM().fit(digits.train, None)
    assert str(error.value) == (
        "detector vim must be given a linear last layer, got None; leave it out for ensembles and heads that have none."
    )


@pytest.mark.parametrize("detector", [KNN(), ViM()])
def test_scoring_before_fitting_is_refused(detector: Detector, digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=f"detector {detector.name} must be fitted before it scores; call fit"):
        detector.score(digits.near)


def test_odin_asks_for_perturbed_logits(digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=r"perturbed_logits must be there for detector odin, got None; extract"):
        ODIN().score(dataclasses.replace(digits.near, perturbed_logits=None))


def test_knn_refuses_a_bank_smaller_than_k(digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=r"KNN\.k must be at most .*, 800, got 801; give a smaller k"):
        fitted(KNN(801), digits)


@pytest.mark.parametrize("dim", [48, 500])
def test_vim_refuses_to_leave_no_residual(dim: int, digits: TrainedDigits) -> None:
    with pytest.raises(
        EvaluationError, match=rf"ViM\.dim must be less than the feature dimension, 48, got {dim}; give"
    ):
        fitted(ViM(dim), digits)


def test_vim_refuses_features_of_a_rank_too_low() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 2, generator=generator) @ torch.randn(2, 16, generator=generator)
    with pytest.raises(EvaluationError, match=r"ViM\.dim must be less than the rank .*, got 8 with .*; give a smaller"):
        ViM().fit(*made_up(features, num_classes=2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Energy(0.0), r"Energy\.temperature must be greater than 0, got 0\.0; the paper's is 1"),
        (lambda: Energy(float("nan")), r"Energy\.temperature must be greater than 0, got nan"),
        (lambda: KNN(0), r"KNN\.k must be at least 1, got 0; the paper's is 50"),
        (lambda: ODIN(temperature=-1.0), r"ODIN\.temperature must be greater than 0, got -1\.0; the paper's is 1000"),
        (lambda: ODIN(epsilon=-0.1), r"ODIN\.epsilon must be at least 0, got -0\.1; the paper's is 0\.0014"),
        (lambda: ViM(0), r"ViM\.dim must be at least 1, got 0; leave it out"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(make: type[Detector], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_outputs_of_another_shape_are_refused(digits: TrainedDigits) -> None:
    near = digits.near
    with pytest.raises(
        EvaluationError, match=rf"NetworkOutputs\.logits must have .* {len(near)} rows.*got shape \(5, 6\)"
    ):
        dataclasses.replace(near, logits=near.logits[:5])
    with pytest.raises(
        EvaluationError, match=r"perturbed_logits must have the shape of logits, .*, got .*; extract both"
    ):
        dataclasses.replace(near, perturbed_logits=near.logits[:, :2])
    with pytest.raises(EvaluationError, match=r"must hold at least one image, got 0; check"):
        rows(near, torch.arange(0))
