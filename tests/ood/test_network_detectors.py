"""Detectors that need more of the network, against float64 computations of their formulas and pytorch-ood."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from read_probes import read_outputs
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from trained_digits import TrainedDigits

from sio_ray.classifier.ensemble import Ensemble
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors import DETECTORS, Detector, gram
from sio_ray.ood.detectors.g_odin import GODIN, GODINStep
from sio_ray.ood.detectors.gram import Gram, GramSums
from sio_ray.ood.detectors.mds_ens import MahalanobisStep, MDSEns, StageMeans
from sio_ray.ood.detectors.odin import ODIN, ODINStep
from sio_ray.ood.detectors.rank_feat import RankFeat, without_rank_1
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, unpack

NAMES = ("odin", "g_odin", "mds_ens", "gram", "rank_feat")
FITTED = ("mds_ens", "gram")
SETS = ("train", "val", "id_test", "near", "far")


@dataclasses.dataclass
class Probed:
    """Outputs with the probes of a detector, and the probes as they were read."""

    network: Classifier
    images: dict[str, Tensor]
    outputs: dict[str, NetworkOutputs]
    probes: tuple[Probe, ...]

    def fit(self, detector: Detector) -> Detector:
        return detector.fit(self.outputs["train"], self.outputs["val"], None)

    @property
    def everything(self) -> tuple[Tensor, NetworkOutputs]:
        images, sets = zip(
            *((self.images[name], self.outputs[name]) for name in ("id_test", "near", "far")), strict=True
        )
        probes = {name: torch.cat([s.probes[name] for s in sets]) for name in sets[0].probes}
        fields = ("features", "logits", "labels", "image_ids")
        return torch.cat(images), NetworkOutputs(*(torch.cat([getattr(s, f) for s in sets]) for f in fields), probes)


def probed(network: Classifier, digits: TrainedDigits, detector: Detector) -> Probed:
    """As the evaluation does it: the training set first, then probes that fit, then all other sets."""
    labels = {name: getattr(digits, name).labels for name in SETS}
    first = [probe for probe in detector.probes() if not probe.fits] if detector.fits_on_probes else []
    train = read_outputs(network, digits.images["train"], first, labels=labels["train"])
    probes = tuple(probe.fitted(train) for probe in detector.probes())
    rest = {name: read_outputs(network, digits.images[name], probes, labels=labels[name]) for name in SETS[1:]}
    return Probed(network, digits.images, {"train": train, **rest}, probes)


@pytest.fixture(scope="session")
def decomposed(digits: TrainedDigits) -> Classifier:
    """A network with G-ODIN's head, trained as the fixture's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(digits.network.architecture.model_copy(update={"head": "g_odin"}))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(30):
            loss = nn.functional.cross_entropy(network(digits.images["train"]), digits.train.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def of_detector(digits: TrainedDigits, decomposed: Classifier) -> Callable[[str], Probed]:
    made: dict[str, Probed] = {}

    def get(name: str) -> Probed:
        if name not in made:
            made[name] = probed(decomposed if name == "g_odin" else digits.network, digits, DETECTORS[name]())
        return made[name]

    return get


def in_float64(network: Classifier) -> Classifier:
    return copy.deepcopy(network).double()


def input_gradient(images: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    images = images.double().requires_grad_()
    (gradient,) = torch.autograd.grad(value(images).sum(), images)
    return gradient


def signs(gradient: Tensor) -> Tensor:
    return torch.where(gradient >= 0, 1.0, -1.0).double()


def rank_correlation(ours: Tensor, reference: Tensor | np.ndarray) -> float:
    return spearmanr(ours.numpy(), np.asarray(reference)).statistic


# Each against its formula, in float64.


def odin_in_float64(network: Classifier, images: Tensor, T: float, epsilon: float) -> Tensor:
    network = in_float64(network)

    def doubt(x: Tensor) -> Tensor:
        # The cross-entropy grows with this, which does not saturate.
        z = network(x) / T
        predicted = nn.functional.one_hot(z.argmax(1), 6).bool()
        return z.masked_fill(predicted, -torch.inf).logsumexp(1) - z[predicted]

    moved = images.double() - epsilon * signs(input_gradient(images, doubt))
    return -(network(moved) / T).softmax(1).amax(1)


def test_odins_step_is_openoods_on_the_normalised_input() -> None:
    torch.manual_seed(0)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.25, 0.4)
    architecture = Architecture(
        network="small_cnn", width=4, class_names=tuple("abc"), image_shape=(3, 8, 8), mean=mean, std=std
    )
    network = Classifier(architecture).double().eval().requires_grad_(False)
    images = torch.rand(20, 3, 8, 8, dtype=torch.float64)
    read = ODINStep((1000.0,), (0.0014,)).read(BatchPass(network, images, with_gradient=True))[:, 0, 0]
    # OpenOOD's postprocessor: the transform normalises, the network sees x, the step is divided by std.
    std_of_channel, mean_of_channel = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (std, mean))
    body, last_layer = network.network, network.last_layer
    x = ((images - mean_of_channel) / std_of_channel).requires_grad_()
    logits = last_layer(body.features(x))
    torch.nn.functional.cross_entropy(logits / 1000, logits.detach().argmax(1)).backward()
    gradient = (torch.ge(x.grad, 0).double() - 0.5) * 2
    with torch.no_grad():
        expected = last_layer(body.features(x - 0.0014 * gradient / std_of_channel))
    torch.testing.assert_close(read, expected.float(), rtol=0, atol=1e-6)
    assert (expected - logits).abs().amax(1).min() > 1e-5, "the step is visible, so the tolerance above tells"


@pytest.mark.parametrize("setting", ODIN().settings(), ids=str)
def test_odin_equals_its_formula(setting: dict[str, float], of_detector: Callable[[str], Probed]) -> None:
    case = of_detector("odin")
    images, outputs = case.everything
    ours = ODIN(**setting).score(outputs)
    expected = odin_in_float64(case.network, images, setting["temperature"], setting["epsilon"])
    assert rank_correlation(ours, expected) > 0.9999
    # Where a gradient is next to 0, float32 and float64 may disagree on its sign.
    assert (ours - expected).abs().median() < 1e-6


def test_odin_equals_numpy_given_its_probe(of_detector: Callable[[str], Probed]) -> None:
    outputs = of_detector("odin").outputs["near"]
    logits = outputs.probes[ODIN().probes()[0].name].double().numpy()
    assert logits.shape == (len(outputs), 4, 2, 6)
    expected = -softmax(logits[:, 3, 0] / 1000, axis=1).max(axis=1)
    np.testing.assert_allclose(ODIN().score(outputs).numpy(), expected, rtol=1e-12)
    expected = -softmax(logits[:, 1, 1] / 10, axis=1).max(axis=1)
    np.testing.assert_allclose(ODIN(temperature=10, epsilon=0.0028).score(outputs).numpy(), expected, rtol=1e-12)


def test_odin_costs_nine_forwards_and_four_backwards(digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards, backwards = [], []
    handle = digits.network.network.body[0][0].register_forward_hook(lambda *_: forwards.append(1))
    gradient = BatchPass.gradient
    monkeypatch.setattr(BatchPass, "gradient", lambda *args: backwards.append(1) or gradient(*args))
    read_outputs(digits.network, digits.images["val"], ODIN().probes(), batch_size=150)
    handle.remove()
    assert (len(forwards), len(backwards)) == (1 + 8, 4)


def test_odin_finds_the_direction_of_certain_images(digits: TrainedDigits) -> None:
    # Logits 40 times as large: at T = 1 the softmax is 1 in float32, and 1 - p is 0.
    network = copy.deepcopy(digits.network)
    network.head.weight *= 40
    network.head.bias *= 40
    images = digits.images["id_test"]
    ours = BatchPass(network, images, with_gradient=True)
    taken: list[Tensor] = []
    ours.step = lambda gradient, size: taken.append(gradient) or images  # type: ignore[method-assign]
    ODINStep((1.0,), (0.1,)).read(ours)

    exact = in_float64(network)

    def doubt(x: Tensor) -> Tensor:
        z = exact(x)
        predicted = nn.functional.one_hot(z.argmax(1), 6).bool()
        return z.masked_fill(predicted, -torch.inf).logsumexp(1) - z[predicted]

    expected = signs(input_gradient(images, doubt))
    usual = images.clone().requires_grad_()
    logits = network(usual)
    (of_cross_entropy,) = torch.autograd.grad(nn.functional.cross_entropy(logits, logits.argmax(1)), usual)
    assert (signs(taken[0]) == expected).double().mean() > 0.999
    assert (signs(of_cross_entropy) == expected).double().mean() < 0.9


@pytest.mark.parametrize(("T", "epsilon"), [(1.0, 0.0028), (1000.0, 0.0014)])
def test_odin_orders_images_as_pytorch_ood(
    T: float, epsilon: float, of_detector: Callable[[str], Probed], pytorch_ood_detectors: ModuleType
) -> None:
    case = of_detector("odin")
    images, outputs = case.everything
    # In float64 theirs loses nothing. Theirs takes 0 for the sign of 0.
    theirs = pytorch_ood_detectors.ODIN(in_float64(case.network), eps=epsilon, temperature=T)(images.double())
    assert rank_correlation(ODIN(temperature=T, epsilon=epsilon).score(outputs), theirs) > 0.9999


@pytest.mark.parametrize("epsilon", [0.0, 0.0025])
def test_g_odin_equals_its_formula(epsilon: float, digits: TrainedDigits, decomposed: Classifier) -> None:
    images = digits.images["near"]
    outputs = read_outputs(decomposed, images, [GODINStep(epsilon)])
    network = in_float64(decomposed)

    def h(x: Tensor) -> Tensor:
        features, weight = network.features(x), network.head.h.weight
        norms = features.norm(dim=1, keepdim=True) + 1e-4
        return features / norms @ (weight / (weight.norm(dim=1, keepdim=True) + 1e-4)).T

    moved = images.double() + epsilon * signs(input_gradient(images, lambda x: h(x).amax(1)))
    expected = h(moved).numpy()
    largest = GODIN(epsilon=epsilon, softmax=False).score(outputs)
    assert rank_correlation(largest, -expected.max(axis=1)) > 0.9999
    share = GODIN(epsilon=epsilon).score(outputs)
    assert rank_correlation(share, -softmax(expected, axis=1).max(axis=1)) > 0.9999
    if epsilon:
        # The step makes the largest numerator larger, by far more than rounding.
        still = read_outputs(decomposed, images, [GODINStep(0.0)]).probes["g_odin"]
        assert (-largest - still.amax(1) > 1e-4).double().mean() > 0.99


def test_g_odin_needs_its_head(digits: TrainedDigits, decomposed: Classifier) -> None:
    (probe,) = GODIN().probes()
    assert probe.refusal(decomposed) is None
    for network in (digits.network, Ensemble([decomposed, decomposed])):
        assert probe.refusal(network) == "a g_odin head (train.algorithm: g_odin)"


def stage_means(network: Classifier, images: Tensor) -> list[np.ndarray]:
    return [maps.mean((2, 3)).double().numpy() for maps in network.feature_maps(images)]


def test_mds_ens_equals_its_formula(of_detector: Callable[[str], Probed], digits: TrainedDigits) -> None:
    case = of_detector("mds_ens")
    labels, network = digits.train.labels.numpy(), in_float64(case.network)
    fits = []
    for features in stage_means(case.network, case.images["train"]):
        means = np.stack([features[labels == c].mean(axis=0) for c in range(6)])
        rest = features - means[labels]
        fits.append((means, np.linalg.pinv(rest.T @ rest / len(rest), rcond=1e-6, hermitian=True)))

    def distances(images: Tensor) -> Tensor:
        of_stages = []
        for stage, fit in enumerate(fits):
            means, precision = (torch.from_numpy(array) for array in fit)

            def squared(x: Tensor, stage: int = stage, means: Tensor = means, precision: Tensor = precision) -> Tensor:
                rest = network.feature_maps(x)[stage].mean((2, 3))[:, None] - means
                return torch.einsum("bcd,de,bce->bc", rest, precision, rest).amin(1)

            of_stages.append(squared(images.double() - 0.0014 * signs(input_gradient(images, squared))))
        return torch.stack(of_stages, 1)

    images, outputs = case.everything
    expected = distances(images)
    np.testing.assert_allclose(
        outputs.probes["mahalanobis_step"][:, 0].median(0).values, expected.median(0).values, rtol=1e-3
    )
    spread = distances(case.images["val"]).numpy().std(axis=0)
    detector = case.fit(MDSEns())
    assert rank_correlation(detector.score(outputs), (expected.numpy() / spread).sum(axis=1)) > 0.9999
    # OpenOOD's defaults: half the distance in the stem, and nothing else.
    stem = detector.with_setting({"stages": "stem"}).score(outputs)
    assert rank_correlation(stem, expected[:, 0]) > 0.9999


def test_the_step_brings_images_nearer_at_its_stage(of_detector: Callable[[str], Probed]) -> None:
    case = of_detector("mds_ens")
    (step,) = (probe for probe in case.probes if isinstance(probe, MahalanobisStep))
    both = dataclasses.replace(step, epsilons=(0.0, 0.0014, 0.0001))
    images = case.images["near"]
    read = read_outputs(case.network, images, [both]).probes["mahalanobis_step"]
    assert read.shape == (len(images), 3, 4)
    still, far_step, near_step = read.unbind(1)
    assert (far_step < still).double().mean() > 0.99
    assert ((far_step < near_step) & (near_step < still)).double().mean() > 0.98
    expected = [
        gaussians.nearest(maps)[0]
        for gaussians, maps in zip(
            step.gaussians, map(torch.from_numpy, stage_means(case.network, images)), strict=True
        )
    ]
    torch.testing.assert_close(still, torch.stack(expected, 1).float(), rtol=1e-4, atol=1e-5)
    assert far_step.equal(read_outputs(case.network, images, [step]).probes["mahalanobis_step"][:, 0])


def test_mds_ens_costs_a_forward_and_a_backward_a_stage(
    of_detector: Callable[[str], Probed], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = of_detector("mds_ens")
    forwards, backwards = [], []
    handle = case.network.network.body[0][0].register_forward_hook(lambda *_: forwards.append(1))
    gradient = BatchPass.gradient
    monkeypatch.setattr(BatchPass, "gradient", lambda *args: backwards.append(1) or gradient(*args))
    read_outputs(case.network, case.images["val"], case.probes, batch_size=150)
    handle.remove()
    assert (len(forwards), len(backwards)) == (1 + 4, 4)


def test_gaussians_are_part_of_the_probes_identity(of_detector: Callable[[str], Probed]) -> None:
    case = of_detector("mds_ens")
    (step,) = (probe for probe in case.probes if isinstance(probe, MahalanobisStep))
    again = MahalanobisStep((0.0014,)).fitted(case.outputs["train"])
    assert again.identity() == step.identity() == pickle.loads(pickle.dumps(step)).identity()  # noqa: S301
    fewer = rows(case.outputs["train"], torch.arange(600))
    assert MahalanobisStep((0.0014,)).fitted(fewer).identity() != step.identity()
    assert MahalanobisStep((0.0014,)).identity() != step.identity()


def gram_in_numpy(maps: np.ndarray, p: int) -> np.ndarray:
    """Row sums of the whole Gram matrix, (B, C)."""
    powered = maps.reshape(*maps.shape[:2], -1) ** p
    whole = np.stack([F @ F.T for F in powered])
    sums = whole.sum(axis=2)
    return np.sign(sums) * np.abs(sums) ** (1 / p)


@pytest.mark.parametrize("powers", [(1, 2, 3, 4, 5), (2, 5), (1,)])
def test_gram_equals_its_formula(
    powers: tuple[int, ...], of_detector: Callable[[str], Probed], digits: TrainedDigits
) -> None:
    case = of_detector("gram")
    train, val, images = case.images["train"], case.images["val"], case.everything[0]
    labels = digits.train.labels.numpy()

    def deviations(x: Tensor) -> np.ndarray:
        predicted = case.network(x).argmax(1).numpy()
        of_stages = []
        for at_train, maps in zip(case.network.feature_maps(train), case.network.feature_maps(x), strict=True):
            delta = np.zeros(len(x))
            for p in powers:
                bank, G = (gram_in_numpy(m.double().numpy(), p) for m in (at_train, maps))
                low = np.stack([bank[labels == c].min(axis=0) for c in range(6)])[predicted]
                high = np.stack([bank[labels == c].max(axis=0) for c in range(6)])[predicted]
                delta += (np.maximum(low - G, 0) / np.abs(low + 1e-6)).sum(axis=1)
                delta += (np.maximum(G - high, 0) / np.abs(high + 1e-6)).sum(axis=1)
            of_stages.append(delta)
        return np.stack(of_stages, axis=1)

    outputs = case.everything[1]
    confidence = softmax(outputs.logits.double().numpy(), axis=1).max(axis=1)
    expected = (deviations(images) / deviations(val).mean(axis=0)).sum(axis=1) / confidence
    ours = case.fit(Gram()).with_setting({"powers": powers}).score(outputs)
    # Sums are kept as float32.
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert rank_correlation(ours, expected) > 0.9999


def test_gram_is_pytorch_oods_but_for_the_confidence(
    of_detector: Callable[[str], Probed], digits: TrainedDigits, pytorch_ood_detectors: ModuleType
) -> None:
    case = of_detector("gram")
    network = case.network

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network.network.stages()[0]((x - network.mean) / network.std)

    class Later(nn.Module):
        def __init__(self, stage: int) -> None:
            super().__init__()
            self.stage = stage

        def forward(self, x: Tensor) -> Tensor:
            return network.network.stages()[self.stage](x)

    class Top(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network.logits(network.network.pool(x))

    theirs = pytorch_ood_detectors.Gram(Top(), [First(), *map(Later, (1, 2, 3))], 6, [1, 2, 3, 4, 5]).to("cpu")
    theirs.validation_fraction = 0  # Theirs takes it from the training set, and from the bounds.
    theirs.fit(list(zip(case.images["train"].split(100), digits.train.labels.split(100), strict=True)))
    ours = case.fit(Gram())
    theirs.layer_norm = ours._expected.sum(1).float()  # type: ignore[attr-defined]
    images, outputs = case.everything
    confidence = outputs.logits.double().softmax(1).amax(1)
    np.testing.assert_allclose(
        (ours.score(outputs) * confidence).numpy(), theirs.predict(images).numpy(), rtol=1e-3, atol=1e-4
    )


def gram_sums(maps: Tensor, *powers: int) -> np.ndarray:
    (sums,) = unpack(GramSums(powers).read(SimpleNamespace(maps=[maps])))  # type: ignore[arg-type]
    return sums.numpy()


def test_gram_sums_survive_large_activations() -> None:
    # To the tenth power these leave float32.
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1e6
    expected = [gram_in_numpy(maps.double().numpy(), p) for p in (1, 5)]
    np.testing.assert_allclose(gram_sums(maps, 1, 5), np.concatenate(expected, axis=1), rtol=1e-6)
    # A channel against two others has a negative sum, whose odd root has its sign.
    signed = maps[:, :1] * torch.tensor([-1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    expected_signed = gram_in_numpy(signed.double().numpy(), 3)
    assert (expected_signed[:, 0] < 0).all()
    np.testing.assert_allclose(gram_sums(signed, 3), expected_signed, rtol=1e-6)


def test_gram_in_blocks_is_gram(of_detector: Callable[[str], Probed], monkeypatch: pytest.MonkeyPatch) -> None:
    case = of_detector("gram")
    whole = case.fit(Gram()).score(case.outputs["near"])
    monkeypatch.setattr(gram, "_NUMBERS_PER_BLOCK", 70 * case.outputs["near"].probes["gram"].shape[1])
    assert case.fit(Gram()).score(case.outputs["near"]).equal(whole)


def test_gram_takes_a_stage_that_no_validation_image_leaves_as_it_is(of_detector: Callable[[str], Probed]) -> None:
    case = of_detector("gram")
    train = case.outputs["train"]
    # The training set validates itself: no deviation anywhere.
    inside = dataclasses.replace(train, logits=nn.functional.one_hot(train.labels, 6).float())
    detector = Gram().fit(inside, inside, None)
    assert detector.score(inside).abs().max() == 0
    assert detector.score(case.outputs["far"]).isfinite().all()


def test_rank_feat_equals_its_formula(of_detector: Callable[[str], Probed]) -> None:
    case = of_detector("rank_feat")
    images, outputs = case.everything
    network = in_float64(case.network)

    def removed(maps: Tensor) -> Tensor:
        u, s, v = np.linalg.svd(maps.flatten(2).numpy(), full_matrices=False)
        rank_1 = s[:, :1, None] * u[:, :, :1] @ v[:, :1]
        return torch.from_numpy(maps.flatten(2).numpy() - rank_1).reshape(maps.shape)

    maps = network.feature_maps(images.double())
    last = network.head(removed(maps[-1]).mean((2, 3)))
    before = network.head(network.network.stages()[-1](removed(maps[-2])).mean((2, 3)))
    for T in (1.0, 3.0):
        expected = -T * logsumexp(((last + before) / 2).numpy() / T, axis=1)
        np.testing.assert_allclose(RankFeat(temperature=T).score(outputs).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_left", [0, 1])
def test_rank_feat_removes_what_pytorch_ood_removes(
    num_left: int, of_detector: Callable[[str], Probed], pytorch_ood_detectors: ModuleType
) -> None:
    case = of_detector("rank_feat")
    network = in_float64(case.network)
    theirs = pytorch_ood_detectors.RankFeat(
        backbone=lambda x: network.feature_maps(x)[-1 - num_left],
        head=lambda maps: network.logits(network.features_from(maps, num_left)),
        detector=lambda logits: logits,
    )
    expected = theirs.predict(case.images["near"].double())
    ours = case.outputs["near"].probes["rank_feat"][:, num_left]
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5, 2, 3), (3, 7, 2, 2), (2, 4, 8, 8), (1, 1, 1, 1)])
def test_what_is_left_has_one_rank_less(shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.linalg.svdvals(maps.flatten(2))
    after = torch.linalg.svdvals(without_rank_1(maps).flatten(2))
    torch.testing.assert_close(after[:, :-1], before[:, 1:], rtol=1e-12, atol=1e-12)
    assert after[:, -1].abs().max() < 1e-12
    assert without_rank_1(torch.zeros(shape)).equal(torch.zeros(shape))


# Laws of all.


def rows(outputs: NetworkOutputs, index: Tensor) -> NetworkOutputs:
    fields = ("features", "logits", "labels", "image_ids")
    probes = {name: probe[index] for name, probe in outputs.probes.items()}
    return NetworkOutputs(*(getattr(outputs, field)[index] for field in fields), probes)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_that_of_its_image_alone(name: str, of_detector: Callable[[str], Probed]) -> None:
    case = of_detector(name)
    outputs, detector = case.outputs["near"], case.fit(DETECTORS[name]())
    scores = detector.score(outputs)
    assert scores.dtype == torch.float64
    assert scores.shape == (len(outputs),)
    order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(0))
    assert detector.score(rows(outputs, order)).equal(scores[order])
    assert detector.score(rows(outputs, torch.tensor([17]))).equal(scores[17:18])


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_is_that_of_its_image_alone(name: str, of_detector: Callable[[str], Probed]) -> None:
    case = of_detector(name)
    images = case.images["near"][:60]
    whole = read_outputs(case.network, images, case.probes, batch_size=60)
    parts = read_outputs(case.network, images, case.probes, batch_size=7)
    detector = case.fit(DETECTORS[name]())
    # Kernels round by the size of the batch, which can turn the sign of a gradient next to 0.
    difference = (detector.score(whole) - detector.score(parts)).abs()
    assert difference.median() <= 1e-6 * detector.score(whole).abs().median()
    assert difference.max() <= 1e-2 * detector.score(whole).std()


@pytest.mark.parametrize("name", FITTED)
def test_order_of_the_training_set_does_not_matter(name: str, of_detector: Callable[[str], Probed]) -> None:
    case = of_detector(name)
    train, val = case.outputs["train"], case.outputs["val"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    expected = case.fit(DETECTORS[name]()).score(case.outputs["near"])
    scores = DETECTORS[name]().fit(rows(train, order), val, None).score(case.outputs["near"])
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=0)


def test_order_of_the_training_set_does_not_matter_to_the_gaussians(of_detector: Callable[[str], Probed]) -> None:
    train = of_detector("mds_ens").outputs["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    for one, other in zip(
        MahalanobisStep((0.0014,)).fitted(train).gaussians,
        MahalanobisStep((0.0014,)).fitted(rows(train, order)).gaussians,
        strict=True,
    ):
        features = torch.randn(20, len(one.centre), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(one.nearest(features)[0], other.nearest(features)[0], rtol=1e-7, atol=0)


#: AUROC against near-OOD and against noise as measured, less 3 points.
FLOORS = {
    "odin": (0.94, 0.95),
    "g_odin": (0.89, 0.91),
    "mds_ens": (0.92, 0.97),
    "gram": (0.93, 0.96),
    "rank_feat": (0.51, 0.66),
}


@pytest.mark.parametrize("name", NAMES)
def test_ood_scores_higher(name: str, of_detector: Callable[[str], Probed]) -> None:
    case = of_detector(name)
    detector = case.fit(DETECTORS[name]())
    id_scores = detector.score(case.outputs["id_test"])
    for name_of_set, floor in zip(("near", "far"), FLOORS[name], strict=True):
        ood_scores = detector.score(case.outputs[name_of_set])
        is_ood = [0] * len(id_scores) + [1] * len(ood_scores)
        assert roc_auc_score(is_ood, torch.cat([id_scores, ood_scores])) > floor


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_is_each_setting_by_itself(name: str, of_detector: Callable[[str], Probed]) -> None:
    case = of_detector(name)
    settings = DETECTORS[name]().settings()
    assert len(settings) == {"odin": 8}.get(name, 1)
    detector = case.fit(DETECTORS[name]())
    before = detector.score(case.outputs["near"])
    for scores, setting in zip(detector.score_sweep(case.outputs["near"], settings), settings, strict=True):
        assert scores.equal(case.fit(DETECTORS[name](**setting)).score(case.outputs["near"]))
    assert detector.score(case.outputs["near"]).equal(before)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("odin", {"temperature": 1.0}),
        ("g_odin", {"softmax": False}),
        ("mds_ens", {"stages": "stem"}),
        ("gram", {"powers": (2, 3)}),
        ("rank_feat", {"temperature": 7.0}),
    ],
)
def test_with_setting_leaves_the_first_one_as_it_was(
    name: str, setting: dict[str, object], of_detector: Callable[[str], Probed]
) -> None:
    case = of_detector(name)
    detector = case.fit(DETECTORS[name]())
    before = detector.score(case.outputs["near"])
    other = detector.with_setting(setting)
    assert not other.score(case.outputs["near"]).equal(before)
    assert detector.score(case.outputs["near"]).equal(before)
    assert other.probes() == detector.probes()


@pytest.mark.parametrize("name", NAMES)
def test_needs_is_all_that_is_read(name: str, of_detector: Callable[[str], Probed]) -> None:
    case = of_detector(name)
    detector = case.fit(DETECTORS[name]())
    wanted = detector.score(case.outputs["near"])

    def without(outputs: NetworkOutputs) -> NetworkOutputs:
        unread = {"features", "logits"} - detector.needs
        nan = {field: torch.full_like(getattr(outputs, field), torch.nan) for field in unread}
        read = {probe.name for probe in detector.probes()}
        probes = {key: value for key, value in outputs.probes.items() if key in read}
        return dataclasses.replace(outputs, probes=probes, **nan)

    outputs = {key: without(value) for key, value in case.outputs.items()}
    assert DETECTORS[name]().fit(outputs["train"], outputs["val"], None).score(outputs["near"]).equal(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_that_was_not_extracted_is_named(name: str, of_detector: Callable[[str], Probed]) -> None:
    case = of_detector(name)
    detector = case.fit(DETECTORS[name]())
    with pytest.raises(
        EvaluationError, match=rf"NetworkOutputs\.probes must hold .* for detector {name}, got \[\]; extr"
    ):
        detector.score(dataclasses.replace(case.outputs["near"], probes={}))


@pytest.mark.parametrize("name", FITTED)
def test_scoring_before_fitting_is_refused(name: str, of_detector: Callable[[str], Probed]) -> None:
    with pytest.raises(EvaluationError, match=f"detector {name} must be fitted before it scores; call fit"):
        DETECTORS[name]().score(of_detector(name).outputs["near"])


# Errors.


@pytest.mark.parametrize(
    ("name", "option", "value", "rule"),
    [
        ("odin", "temperature", 0, "greater than 0"),
        ("odin", "epsilon", -0.1, "at least 0"),
        ("g_odin", "epsilon", -0.1, "at least 0"),
        ("mds_ens", "epsilon", -1, "at least 0"),
        ("rank_feat", "temperature", 0, "greater than 0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, option: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluate\.detector_options\.{name}\.{option} must be .*, got {value}"):
        DETECTORS[name](**{option: value})


@pytest.mark.parametrize("powers", [(), (0, 1)])
def test_powers_are_at_least_one_of_at_least_1(powers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.detector_options\.gram\.powers"):
        Gram(powers=powers)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        (
            "odin",
            {"temperature": 5.0},
            "detector odin must have a setting that was extracted, temperature in [1.0, 10.0, 100.0, 1000.0] and "
            "epsilon in [0.0014, 0.0028], got 5 and 0.0014; give it in evaluate.detector_options.",
        ),
        (
            "g_odin",
            {"epsilon": 0.01},
            "detector g_odin must have the epsilon that was extracted, 0.0025, got 0.01; "
            "give it in evaluate.detector_options.",
        ),
        (
            "mds_ens",
            {"epsilon": 0.0},
            "detector mds_ens must have an epsilon that was extracted, one of [0.0014], got 0; "
            "give it in evaluate.detector_options.",
        ),
        (
            "gram",
            {"powers": (1, 7)},
            "detector gram must have powers that were extracted, of [1, 2, 3, 4, 5], got [7]; "
            "give them in evaluate.detector_options.",
        ),
    ],
)
def test_a_setting_that_was_not_extracted_is_refused(
    name: str, setting: dict[str, object], message: str, of_detector: Callable[[str], Probed]
) -> None:
    case = of_detector(name)
    with pytest.raises(EvaluationError) as error:
        case.fit(DETECTORS[name]()).with_setting(setting).score(case.outputs["near"])
    assert str(error.value) == message


def test_options_beside_the_sweep_are_extracted_with_it() -> None:
    (probe,) = ODIN(temperature=5, epsilon=0.0).probes()
    assert probe == ODINStep((1.0, 5.0, 10.0, 100.0, 1000.0), (0.0, 0.0014, 0.0028))
    (_, step) = MDSEns(epsilon=0).probes()
    assert step.epsilons == (0.0, 0.0014)
    assert Gram(powers=[3, 1, 3]).probes() == (GramSums((1, 3)),)


@pytest.mark.parametrize("name", FITTED)
def test_labels_that_do_not_suit_are_named(name: str, of_detector: Callable[[str], Probed]) -> None:
    train = of_detector(name).outputs["train"]

    def fit(labels: Tensor) -> None:
        given = dataclasses.replace(train, labels=labels)
        if name == "mds_ens":
            MahalanobisStep((0.0014,)).fitted(given)
        else:
            Gram().fit(given, given, None)

    with pytest.raises(EvaluationError) as error:
        fit(train.labels.masked_fill(train.labels == 2, 3))
    assert str(error.value) == (
        f"detector {name} must have a training image of every class, got none of class 2; give the whole training set, "
        f"or leave {name} out of evaluate.detectors."
    )
    for strange in (-1, 6):
        with pytest.raises(EvaluationError, match=rf"labels in \[0, 6\), got {strange}; give the real ID training set"):
            fit(train.labels.masked_fill(train.labels == 2, strange))


def test_mds_ens_needs_several_validation_images(of_detector: Callable[[str], Probed]) -> None:
    case = of_detector("mds_ens")
    with pytest.raises(EvaluationError, match=r"different distances in every stage, got 1 image\(s\) at the same one;"):
        MDSEns().fit(case.outputs["train"], rows(case.outputs["val"], torch.tensor([3])), None)


def test_an_unfitted_step_is_refused(digits: TrainedDigits) -> None:
    with pytest.raises(
        EvaluationError, match=r"probe mahalanobis_step must be fitted before it reads; call fitted with"
    ):
        read_outputs(digits.network, digits.images["val"], [MahalanobisStep((0.0014,))])
    with pytest.raises(EvaluationError, match=r"NetworkOutputs\.probes must hold 'stage_means' for detector mds_ens"):
        MahalanobisStep((0.0014,)).fitted(digits.train)


def test_rank_feat_needs_maps_to_go_on_from(digits: TrainedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    (probe,) = RankFeat().probes()
    assert probe.refusal(digits.network) is None
    assert probe.refusal(Ensemble([digits.network])) == "feature maps"
    monkeypatch.setattr(Classifier, "resumable", False)
    assert probe.refusal(digits.network) == "feature maps that its later stages can go on from"


def test_stage_means_say_their_stages(digits: TrainedDigits) -> None:
    read = read_outputs(digits.network, digits.images["val"], [StageMeans()]).probes["stage_means"]
    for part, expected in zip(unpack(read), stage_means(digits.network, digits.images["val"]), strict=True):
        np.testing.assert_allclose(part.numpy(), expected, rtol=1e-5, atol=1e-6)
