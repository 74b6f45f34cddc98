"""MDS, RMDS, MDS++, Residual, ViM, SHE, NECO, CoP and CoRP against float64 NumPy written here, and pytorch-ood."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import detector_laws
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import pinvh
from scipy.special import logsumexp
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize
from test_bank_detectors import everything, fitted, rows
from torch import Tensor
from trained_digits import TrainedDigits

from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors import DETECTORS, Sizes, blocks
from sio_ray.ood.detectors.corp import CoRP
from sio_ray.ood.detectors.gaussian import ClassStatistics, Mahalanobis
from sio_ray.ood.detectors.mds import MDS
from sio_ray.ood.detectors.residual_space import default_dim
from sio_ray.ood.detectors.she import SHE
from sio_ray.ood.detectors.vim import ViM
from sio_ray.ood.metrics import ood_metrics
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.protocol import suitable_settings

Array = npt.NDArray[np.float64]

NEW = ["mds_plus_plus", "neco", "cop", "corp"]


def quadratic(x: Array, mean: Array, centred: Array) -> Array:
    """(x - mean)^T S^+ (x - mean), S the second moment of what is centred, S^+ as OpenOOD's float32 has it."""
    precision = pinvh(centred.T @ centred / len(centred), rtol=x.shape[1] * np.finfo(np.float32).eps)
    return np.einsum("md,de,me->m", x - mean, precision, x - mean)


def reference(name: str, outputs: NetworkOutputs, train: NetworkOutputs, layer: LastLayer) -> Array:
    """Every score once more, naively, in float64 NumPy."""
    x, z = outputs.features.double().numpy(), train.features.double().numpy()
    labels, num_classes = train.labels.numpy(), train.logits.shape[1]
    if name in ("mds", "rmds", "mds_plus_plus"):
        if name == "mds_plus_plus":
            x, z = normalize(x), normalize(z)
        means = np.stack([z[labels == c].mean(axis=0) for c in range(num_classes)])
        nearest = np.min([quadratic(x, mean, z - means[labels]) for mean in means], axis=0)
        return nearest - quadratic(x, z.mean(axis=0), z - z.mean(axis=0)) if name == "rmds" else nearest
    if name == "she":
        is_right = train.logits.argmax(1).numpy() == labels
        patterns = np.stack([z[is_right & (labels == c)].mean(axis=0) for c in range(num_classes)])
        return -(x * patterns[outputs.logits.argmax(1).numpy()]).sum(axis=1)
    W, b = layer.weight.double().numpy(), layer.bias.double().numpy()
    u = -np.linalg.pinv(W) @ b
    # The right singular vectors of the centred features, where ours takes eigenvectors of their second moment.
    R = np.linalg.svd(z - u, full_matrices=True)[2][z.shape[1] // 2 :]
    residual, train_residual = (np.linalg.norm((f - u) @ R.T, axis=1) for f in (x, z))
    if name == "residual":
        return residual
    assert name == "vim"
    logits, train_logits = (s.logits.double().numpy() for s in (outputs, train))
    return train_logits.max(axis=1).mean() / train_residual.mean() * residual - logsumexp(logits, axis=1)


def with_dead_units(outputs: NetworkOutputs, values: float) -> NetworkOutputs:
    """Four more features, of noise of a size."""
    noise = values * torch.rand(len(outputs), 4, generator=torch.Generator().manual_seed(len(outputs)))
    return dataclasses.replace(outputs, features=torch.cat([outputs.features, noise], dim=1))


def relabelled(digits: TrainedDigits) -> NetworkOutputs:
    """The training set, a seventh of it with labels that the network does not predict."""
    labels = digits.train.labels.clone()
    labels[::7] = (labels[::7] + 1) % 6
    return dataclasses.replace(digits.train, labels=labels)


@pytest.mark.parametrize("name", ["mds", "rmds", "mds_plus_plus", "she", "residual", "vim"])
def test_equals_numpy(name: str, digits: TrainedDigits) -> None:
    outputs = everything(digits)
    for train in (digits.train, relabelled(digits)):
        scores = DETECTORS[name]().fit(train, digits.val, digits.last_layer).score(outputs)
        np.testing.assert_allclose(scores.numpy(), reference(name, outputs, train, digits.last_layer), rtol=1e-8)


@pytest.mark.parametrize("name", ["mds", "rmds"])
def test_the_pseudo_inverse_is_that_of_a_float32_covariance(name: str, digits: TrainedDigits) -> None:
    # Variances of 1e-9 would be inverted in float64; OpenOOD's float32 leaves them out.
    train, outputs = with_dead_units(digits.train, 1e-4), with_dead_units(everything(digits), 1.0)
    scores = DETECTORS[name]().fit(train, digits.val, None).score(outputs)
    np.testing.assert_allclose(scores.numpy(), reference(name, outputs, train, digits.last_layer), rtol=1e-8)
    assert spearmanr(scores.numpy(), fitted(name, digits).score(everything(digits)).numpy()).statistic > 0.999


@pytest.mark.parametrize("name", ["mds", "rmds", "she", "vim"])
def test_orders_images_as_pytorch_ood(name: str, digits: TrainedDigits, pytorch_ood_detectors: ModuleType) -> None:
    outputs, train, layer, theirs = everything(digits), digits.train, digits.last_layer, pytorch_ood_detectors
    detector = {
        "mds": lambda: theirs.Mahalanobis(None),
        "rmds": lambda: theirs.RMD(None),
        "she": lambda: theirs.SHE(None, lambda z: z @ layer.weight.T + layer.bias),
        "vim": lambda: theirs.ViM(None, d=24, w=layer.weight, b=layer.bias),
    }[name]()
    expected = detector.fit_features(train.features, train.labels).predict_features(outputs.features)
    assert spearmanr(fitted(name, digits).score(outputs).numpy(), expected.numpy()).statistic > 0.9999


@pytest.mark.parametrize("name", ["mds", "rmds"])
def test_units_that_are_dead_in_training_have_no_say(
    name: str, digits: TrainedDigits, pytorch_ood_detectors: ModuleType
) -> None:
    """Where pytorch-ood's ridge on the scatter matrix makes them all that counts."""
    train = with_dead_units(digits.train, 0.0)
    id_test, near = with_dead_units(digits.id_test, 0.01), with_dead_units(digits.near, 0.01)
    ours = DETECTORS[name]().fit(train, digits.val, digits.last_layer)
    torch.testing.assert_close(ours.score(near), fitted(name, digits).score(digits.near), rtol=1e-8, atol=1e-8)
    theirs = getattr(pytorch_ood_detectors, {"mds": "Mahalanobis", "rmds": "RMD"}[name])(None)
    theirs.fit_features(train.features, train.labels)
    of_ours, of_theirs = (
        ood_metrics(*(score(s).double().numpy() for s in (id_test, near))).auroc
        for score in (ours.score, lambda s: theirs.predict_features(s.features))
    )
    assert of_ours > 0.93
    if name == "mds":  # in RMD, the same ridge in both Gaussians cancels
        assert of_theirs < of_ours - 0.1


@pytest.mark.parametrize("name", ["mds", "rmds"])
def test_mahalanobis_distances_do_not_depend_on_the_axes(name: str, digits: TrainedDigits) -> None:
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(48, 48, generator=generator, dtype=torch.float64)).Q
    axes = rotation * torch.linspace(0.5, 2, 48, dtype=torch.float64)
    origin = 100 * torch.randn(48, generator=generator, dtype=torch.float64)

    def moved(outputs: NetworkOutputs) -> NetworkOutputs:
        return dataclasses.replace(outputs, features=outputs.features.double() @ axes + origin)

    scores = DETECTORS[name]().fit(moved(digits.train), digits.val, None).score(moved(digits.near))
    torch.testing.assert_close(scores, fitted(name, digits).score(digits.near), rtol=1e-6, atol=1e-6)


def test_mds_keeps_its_digits_where_classes_are_far_apart() -> None:
    # Means 1e4 apart, spread 1: the terms of the expanded quadratic are 1e8 times the distance.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    spread = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    features = 1e4 * torch.eye(8, dtype=torch.float64)[labels] + spread + 1e6
    train = NetworkOutputs(features, torch.eye(3)[labels], labels, torch.arange(300))
    expected = reference("mds", train, train, LastLayer(torch.zeros(3, 8), torch.zeros(3)))
    np.testing.assert_allclose(MDS().fit(train, train, None).score(train).numpy(), expected, rtol=1e-6)


def made_up(features: Tensor) -> tuple[NetworkOutputs, NetworkOutputs, LastLayer]:
    """Outputs of a random last layer of two classes on given features."""
    layer = LastLayer(torch.randn(2, features.shape[1], generator=torch.Generator().manual_seed(1)), torch.ones(2))
    ids = torch.arange(len(features))
    outputs = NetworkOutputs(features, features @ layer.weight.T + layer.bias, ids % 2, ids)
    return outputs, outputs, layer


def test_the_nearest_mean_comes_with_half_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(300, 5, generator=generator), torch.arange(300) % 3
    train = NetworkOutputs(torch.cat([features, torch.full((300, 1), 0.1)], 1), torch.zeros(300, 3), labels, labels)
    statistics = ClassStatistics.of(train, detector="mds", device=torch.device("cpu"))
    gaussians = Mahalanobis.of(statistics.means, statistics.within, detector="mds")
    x = train.features[:50].double().requires_grad_()
    expected = gaussians.squared_distances(x).amin(dim=1)
    distances, direction = gaussians.nearest(train.features[:50])
    torch.testing.assert_close(distances, expected)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(direction, gradient / 2)
    assert direction[:, 5].abs().max() < 1e-6  # a dead unit


def test_mds_plus_plus_does_not_see_the_length_of_a_feature(digits: TrainedDigits) -> None:
    longer = dataclasses.replace(digits.near, features=3 * digits.near.features)
    detector = fitted("mds_plus_plus", digits)
    torch.testing.assert_close(detector.score(longer), detector.score(digits.near), rtol=1e-6, atol=1e-6)
    zeros = dataclasses.replace(digits.near, features=torch.zeros_like(digits.near.features))
    assert detector.score(zeros).isfinite().all()


@pytest.mark.parametrize("times_max_logit", [False, True])
@pytest.mark.parametrize("dim", [None, 20])
def test_neco_is_that_of_scikit_learns_pca(dim: int | None, times_max_logit: bool, digits: TrainedDigits) -> None:
    train, outputs = (with_dead_units(each, 0.0) for each in (digits.train, everything(digits)))
    for each in (train, outputs):
        each.features[:, -1] = 0.1  # whose mean rounds
    scaler = StandardScaler().fit(train.features.double().numpy())
    z, x = (scaler.transform(each.features.double().numpy()) for each in (train, outputs))
    reduced = PCA().fit(z).transform(x)[:, : dim or 6]
    expected = np.linalg.norm(reduced, axis=1) / np.linalg.norm(x, axis=1)
    if times_max_logit:
        expected *= outputs.logits.double().numpy().max(axis=1)
    detector = DETECTORS["neco"](dim=dim, times_max_logit=times_max_logit).fit(train, digits.val, None)
    np.testing.assert_allclose(detector.score(outputs).numpy(), -expected, rtol=1e-8)


def test_neco_takes_a_feature_at_the_mean_and_a_space_that_leaves_something(digits: TrainedDigits) -> None:
    mean = digits.train.features.double().mean(dim=0).float().expand(len(digits.near), -1)
    scores = fitted("neco", digits).score(dataclasses.replace(digits.near, features=mean))
    assert scores.isfinite().all()
    with pytest.raises(
        EvaluationError, match=r"options\.neco\.dim must be less than the .*, 48, got 48; give a smaller"
    ):
        fitted("neco", digits, dim=48).score(digits.near)
    refuse = DETECTORS["neco"](dim=48).refusal
    assert refuse(Sizes(700, 48, 6)) == "dim must be less than the feature dimension, 48, got 48"
    assert DETECTORS["neco"]().refusal(Sizes(700, 512, 1000)) is None


def left_by_pca(x: Array, z: Array, share: float) -> Array:
    """What the first axes of z with a share of its variance leave of x, by singular vectors."""
    mean = z.mean(axis=0)
    _, s, axes = np.linalg.svd(z - mean, full_matrices=False)
    q = next(q for q in range(1, len(s) + 1) if (s[:q] ** 2).sum() >= share * (s**2).sum())
    rebuilt = (x - mean) @ axes[:q].T @ axes[:q]
    return np.linalg.norm(x - mean - rebuilt, axis=1)


@pytest.mark.parametrize("share", [None, 0.3, 0.97])
@pytest.mark.parametrize("name", ["cop", "corp"])
def test_kernel_pca_equals_numpy(name: str, share: float | None, digits: TrainedDigits) -> None:
    outputs = everything(digits)
    detector = fitted(name, digits, **({} if share is None else {"explained_variance": share}))
    x, z = (each.features.double() for each in (outputs, digits.train))
    if name == "cop":
        f_x, f_z = normalize(x.numpy()), normalize(z.numpy())
    else:
        mapping = detector.mapping(48)
        f_x, f_z = mapping(x).numpy(), mapping(z).numpy()
    expected = left_by_pca(f_x, f_z, share or {"cop": 0.85, "corp": 0.8}[name])
    np.testing.assert_allclose(detector.score(outputs).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_corps_features_have_the_products_of_a_gaussian_kernel(gamma: float, digits: TrainedDigits) -> None:
    x = digits.near.features[:40].double()
    f = CoRP(gamma=gamma, num_random=1000).mapping(48)(x)
    unit = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(f @ f.T, (-gamma * torch.cdist(unit, unit).square()).exp(), rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["neco", "cop", "corp"])
def test_features_that_do_not_vary_have_no_axes(name: str, digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=f"detector {name} must have training features that vary, got the same"):
        DETECTORS[name]().fit(dataclasses.replace(digits.train, features=torch.ones(700, 48)), digits.val, None)


@pytest.mark.parametrize("name", NEW)
def test_laws_of_detectors_of_principal_axes(name: str, digits: TrainedDigits) -> None:
    detector_laws.check_it_says_what_it_is(name)
    detector_laws.check_a_score_is_that_of_its_image_alone(name, digits)
    detector_laws.check_order_of_the_training_set_does_not_matter(name, digits, rtol=1e-7)
    detector_laws.check_needs_is_all_that_it_reads(name, digits)
    detector_laws.check_nothing_is_written_to(name, digits)
    detector_laws.check_scoring_before_fitting_is_refused(name, digits)
    detector = DETECTORS[name]()
    suitable = [each for each in detector.settings() if detector.with_setting(each).refusal(Sizes(700, 48, 6)) is None]
    detector_laws.check_a_sweep_equals_detectors_built_afresh(name, digits, suitable)
    for ood in ("near", "far"):
        assert detector_laws.auroc(fitted(name, digits), digits, ood) > (0.7 if name == "cop" else 0.85)


@pytest.mark.parametrize("name", NEW)
def test_blocks_do_not_show(name: str, digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(name, digits).score(digits.near)
    monkeypatch.setattr(blocks, "_NUMBERS_PER_BLOCK", 1000)
    torch.testing.assert_close(fitted(name, digits).score(digits.near), whole, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_score_rises_with_the_residual_alone(name: str, digits: TrainedDigits) -> None:
    layer = digits.last_layer
    origin = -(torch.linalg.pinv(layer.weight.double()) @ layer.bias.double())
    axes = torch.linalg.svd(digits.train.features.double() - origin, full_matrices=True).Vh.float()
    detector = fitted(name, digits, dim=8)
    before = detector.score(digits.id_test)
    far, along = (
        detector.score(dataclasses.replace(digits.id_test, features=digits.id_test.features + 50 * axes[i]))
        for i in (47, 0)
    )
    assert (far > before).all()
    torch.testing.assert_close(along, before, rtol=1e-4, atol=1e-4)


def test_vims_alpha_brings_the_residual_of_the_training_set_to_its_largest_logit(digits: TrainedDigits) -> None:
    train = digits.train
    for dim in (1, 20, 47):
        virtual_logits = fitted("vim", digits, dim=dim).score(train) + train.logits.double().logsumexp(dim=1)
        torch.testing.assert_close(virtual_logits.mean(), train.logits.double().amax(dim=1).mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("num_features", "dim"), [(48, 24), (512, 256), (767, 383), (768, 512), (2047, 512), (2048, 1000)]
)
def test_default_dim_is_that_of_the_authors(num_features: int, dim: int) -> None:
    assert default_dim(num_features) == dim


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_a_space_of_as_many_dimensions_as_images_is_refused_and_a_sweep_takes_the_others(name: str) -> None:
    detector, sizes = DETECTORS[name](), Sizes(num_train=600, num_features=2048, num_classes=10)
    assert detector.refusal(sizes) == "dim must be less than the number of training images, 600, got 1000"
    if name == "vim":
        assert suitable_settings(detector, sizes, sweep=True) == [{"dim": 256}]
    train, val, last_layer = made_up(torch.randn(20, 32, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(EvaluationError, match=r"dim must be less than the number of training images, 20, got 24"):
        detector.with_setting({"dim": 24}).fit(train, val, last_layer).score(train)


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_features_of_a_rank_too_low_are_refused(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 2, generator=generator) @ torch.randn(2, 16, generator=generator)
    detector = DETECTORS[name]().fit(*made_up(features))
    with pytest.raises(
        EvaluationError,
        match=rf"options\.{name}\.dim must be less than the rank .*, got 8 with .*; give a smaller .* leave {name} out",
    ):
        detector.score(made_up(features)[0])
    assert detector.with_setting({"dim": 1}).score(made_up(features)[0]).isfinite().all()


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_a_linear_last_layer_is_asked_for(name: str, digits: TrainedDigits) -> None:
    with pytest.raises(EvaluationError, match=f"detector {name} must be given a linear last layer, got None; leave"):
        DETECTORS[name]().fit(digits.train, digits.val, None)


def test_she_leaves_out_what_the_network_gets_wrong(digits: TrainedDigits) -> None:
    train = relabelled(digits)
    spoilt = train.features.clone()
    spoilt[::7] = 1e3
    scores = [
        SHE().fit(dataclasses.replace(train, features=f), digits.val, None).score(digits.near)
        for f in (train.features, spoilt)
    ]
    assert scores[0].equal(scores[1])


def test_she_asks_for_a_right_prediction_of_every_class(digits: TrainedDigits) -> None:
    logits = digits.train.logits.clone()
    logits[:, 4] = -100
    with pytest.raises(EvaluationError) as error:
        SHE().fit(dataclasses.replace(digits.train, logits=logits), digits.val, None)
    assert str(error.value) == (
        "detector she must have a training image of every class that is predicted right, got none of class 4; train "
        "longer, or leave she out of evaluate.detectors."
    )


@pytest.mark.parametrize("name", ["mds", "rmds"])
def test_training_sets_without_what_a_gaussian_needs_are_refused(name: str, digits: TrainedDigits) -> None:
    train = digits.train
    with pytest.raises(
        EvaluationError, match=f"detector {name} must have a training image of every class, .* class 2;"
    ):
        DETECTORS[name]().fit(rows(train, train.labels != 2), digits.val, None)
    for wrong in (-1, 6):
        mislabelled = dataclasses.replace(train, labels=torch.where(train.labels == 2, wrong, train.labels))
        with pytest.raises(EvaluationError, match=rf"{name} must have training labels in \[0, 6\), got {wrong}; give"):
            DETECTORS[name]().fit(mislabelled, digits.val, None)
    with pytest.raises(EvaluationError, match=f"detector {name} must have training features that vary, got the same"):
        DETECTORS[name]().fit(dataclasses.replace(train, features=torch.ones(700, 48)), digits.val, None)


def test_vim_sweeps_by_one_product(digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fitted("vim", digits)
    assert isinstance(detector, ViM)
    calls = []
    norms = type(detector._fitted[0]).norms  # type: ignore[index]
    monkeypatch.setattr(type(detector._fitted[0]), "norms", lambda *args: calls.append(args) or norms(*args))
    detector.score_sweep(digits.near, [{"dim": 3}, {"dim": 30}, {}])
    assert len(calls) == 1
