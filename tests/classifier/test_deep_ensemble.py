"""A deep ensemble is scored by the mean of its members' softmax; logit-based detectors run on it as on one network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sio_ray.classifier.checkpoint import load_checkpoints, save_classifier
from sio_ray.classifier.ensemble import Ensemble
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.errors import CheckpointError, EvaluationError
from sio_ray.imageset import ImageArrays
from sio_ray.ood.detectors.reading import choose_detectors, probes_of, probes_of_train
from sio_ray.ood.extract import extract, last_layer_of
from sio_ray.ood.protocol import EvaluationSets, evaluate_detector


def member(seed: int, **changes) -> Classifier:
    torch.manual_seed(seed)
    fields = {
        "network": "small_cnn",
        "width": 4,
        "class_names": tuple("abc"),
        "image_shape": (1, 8, 8),
        "mean": (0.5,),
        "std": (0.2,),
    }
    classifier = Classifier(Architecture(**fields | changes))
    classifier(torch.rand(16, *classifier.architecture.image_shape))
    return classifier.eval()


@pytest.fixture
def members() -> list[Classifier]:
    return [member(0), member(1, network="resnet18_32px"), member(2, head="g_odin", width=8)]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_softmax_and_energy_are_the_means_of_the_members(members, images):
    ensemble = Ensemble(members).eval()
    of_members = torch.stack([one(images).double() for one in members])
    logits = ensemble(images).double()
    torch.testing.assert_close(logits.softmax(1), of_members.softmax(2).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.logsumexp(1), of_members.logsumexp(2).mean(0), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_features_stand_side_by_side_and_give_the_logits(members, images):
    ensemble = Ensemble(members).eval()
    features = ensemble.features(images)
    assert ensemble.num_features == features.shape[1] == 16 + 32 + 32
    assert torch.equal(features[:, 16:48], members[1].features(images))
    assert torch.equal(ensemble.logits(features), ensemble(images))


@torch.no_grad()
def test_an_ensemble_of_one_or_of_equals_is_that_one(images):
    one = member(0)
    for count in (1, 4):
        torch.testing.assert_close(Ensemble([one] * count)(images), one(images), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_members_that_are_sure_do_not_overflow():
    sure = [member(0), member(1)]
    for one, label in zip(sure, (0, 2), strict=True):
        one.head.weight.zero_()
        one.head.bias.copy_(torch.eye(3)[label] * 1000)
    logits = Ensemble(sure)(torch.rand(2, 1, 8, 8))
    torch.testing.assert_close(logits.softmax(1), torch.tensor([[0.5, 0.0, 0.5]] * 2))
    torch.testing.assert_close(logits.logsumexp(1), torch.tensor([1000.0, 1000.0]))


def test_checkpoints_are_loaded_as_a_classifier_or_as_an_ensemble(members, images, tmp_path):
    folders = [tmp_path / str(number) for number in range(3)]
    for folder, one in zip(folders, members, strict=True):
        save_classifier(folder, one.architecture, one.state_dict())
    single, ensemble = load_checkpoints(folders[:1]), load_checkpoints([str(folder) for folder in folders])
    assert isinstance(single, Classifier)
    assert isinstance(ensemble, Ensemble)
    assert not ensemble.training
    assert ensemble.architecture.class_names == tuple("abc")
    with torch.no_grad():
        assert torch.equal(single(images), members[0](images))
        assert torch.equal(ensemble(images), Ensemble(members)(images))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"class_names": tuple("ab")}, "2 classes of pictures (1, 8, 8), the first 3 of (1, 8, 8)"),
        ({"class_names": tuple("abx")}, "3 classes of pictures (1, 8, 8), the first 3 of (1, 8, 8)"),
        ({"image_shape": (1, 9, 8)}, "3 classes of pictures (1, 9, 8), the first 3 of (1, 8, 8)"),
    ],
)
def test_members_of_different_sets_are_refused(changes, what):
    with pytest.raises(CheckpointError) as error:
        Ensemble([member(0), member(1), member(2, **changes)])
    assert str(error.value) == (
        f"member 3 of the ensemble knows {what}, or other names; give members that were trained on the same set."
    )


def test_an_ensemble_of_none_is_refused():
    with pytest.raises(CheckpointError, match=r"must have at least one member, got none; name its checkpoints\.$"):
        load_checkpoints([])


def arrays(seed: int, count: int = 60) -> ImageArrays:
    rng = np.random.default_rng(seed)
    return ImageArrays(rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8), np.arange(count) % 3, np.arange(count))


@pytest.mark.parametrize("build", [lambda: member(0, head="g_odin"), lambda: Ensemble([member(0), member(1)]).eval()])
def test_detectors_of_logits_and_features_run_without_a_last_layer(build):
    network = build()
    names = ["msp", "temp_scale", "energy", "gen", "knn", "odin"]
    detectors = choose_detectors(names, {"knn": {"k": 3}}, network)
    train = extract(network, arrays(0), batch_size=16, probes=probes_of_train(detectors), where="set")
    probes = probes_of(detectors)
    val, test, ood = (extract(network, arrays(s), batch_size=16, probes=probes, where="set") for s in (1, 2, 3))
    assert last_layer_of(network) is None
    sets = EvaluationSets(train=train, val=val, test=test, ood={("near", "noise"): ood})
    evaluations = {each.name: evaluate_detector(each, sets, sweep=False) for each in detectors}
    with torch.no_grad():
        probabilities = network(torch.from_numpy(arrays(3).images).float() / 255).softmax(1)
    scores = evaluations["msp"].scores.query("group == 'near'")["ood_score"]
    np.testing.assert_allclose(scores, -probabilities.amax(1).double(), atol=1e-6)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: member(0, head="g_odin"), "a classifier with the head g_odin"),
        (lambda: Ensemble([member(0), member(1)]), "an ensemble of 2"),
    ],
)
def test_the_last_layer_that_is_not_there_is_named(build, what):
    with pytest.raises(EvaluationError) as error:
        _ = build().last_layer
    assert str(error.value) == (
        f"{what} has no linear last layer for a detector to read; leave out the detectors that need one, such as vim."
    )
