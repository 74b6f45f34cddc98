"""The table of methods: each row exists, shares what it can share, and is decided by `methods` alone."""

from __future__ import annotations

import pytest

from sio_ray.classifier.algorithms import ALGORITHMS
from sio_ray.config import load_config, with_overrides
from sio_ray.config.evaluate_section import PAPER_DETECTORS
from sio_ray.errors import ConfigError
from sio_ray.methods import METHODS, PAPER_METHODS
from sio_ray.ood.detectors import DETECTORS
from sio_ray.stages.layout import evaluate_place, train_runs
from sio_ray.stages.trainings import ALGORITHM_FIELDS, trainings

ALL = ["paper", "grad_norm"]


def load(*overrides: str):
    return load_config("digits", ["train.seeds=[0,1,2]", *overrides])


def test_every_method_is_made_of_what_there_is():
    assert {method.detector for method in METHODS.values()} <= set(DETECTORS)
    assert {method.algorithm for method in METHODS.values()} == set(ALGORITHMS) - {"mixup"}
    post_hoc = [name for name, method in METHODS.items() if not method.paper]
    assert post_hoc == [METHODS[name].detector for name in post_hoc] == list(PAPER_DETECTORS)
    for name in post_hoc:
        assert METHODS[name].title == DETECTORS[name].title


def test_the_mean_of_the_paper_is_of_18_and_its_unprinted_row_is_no_grad_norm():
    assert len(PAPER_METHODS) == 18
    # Table 1, near-OOD CIFAR-10, without and with SIO.
    without = (85.14, 86.71, 86.30, 77.86, 86.24, 84.63, 86.17, 79.85, 84.16, 89.38, 80.20, 88.64, 87.44, 91.48, 87.47)
    without += (92.26, 88.62)
    assert 18 * 86.25 - sum(without) == pytest.approx(89.95)


def test_methods_share_the_networks_of_a_training():
    config = load(f"methods={ALL}")
    found = trainings(config)
    assert [training.name for training in found] == [
        *("cross_entropy", "g_odin", "vos", "logit_norm", "cutmix", "pixmix", "outlier_exposure"),
        "cross_entropy, 3 networks",
    ]
    assert [name for training in found for name in training.methods.values()] == list(METHODS)
    assert found[0].config.evaluate.detectors == PAPER_DETECTORS
    assert found[2].config.evaluate.detectors == ("energy",)
    runs = train_runs(config)
    assert len({run.place.folder for run in runs}) == len(runs) == len({run.name for run in runs})
    # Two arms and three seeds of seven algorithms, and two further networks for each ensemble.
    assert len(runs) == 6 * 7 + 6 * 2


def test_a_training_is_the_ordinary_config_of_the_same_algorithm():
    (training,) = trainings(load("methods=[vos]"))
    alone = load("train.algorithm=vos", "evaluate.detectors=[energy]")
    assert training.config == alone
    assert trainings(alone)[0].config is alone
    assert evaluate_place(training.config) == evaluate_place(alone)
    assert evaluate_place(load("methods=[vos]")) != evaluate_place(alone)


def test_a_field_of_one_algorithm_goes_to_that_one_alone():
    needs = {"outliers": ("outlier_set", "outlier_batch_size"), "mixing": ("mixing_set",)}
    readers = {field: name for name, kind in ALGORITHMS.items() for need in kind.needs for field in needs[need]}
    assert readers == ALGORITHM_FIELDS
    config = load("methods=[msp,outlier_exposure]", "train.outlier_batch_size=7", "evaluate.detector_options.knn.k=5")
    plain, exposed = (training.config for training in trainings(config))
    assert (plain.train.outlier_batch_size, exposed.train.outlier_batch_size) == (None, 7)
    assert plain.evaluate.detector_options == {}


def test_the_order_and_the_word_for_all_decide_nothing():
    named = load(f"methods=[{','.join(reversed(PAPER_METHODS))}]")
    assert load("methods=[paper]").method_names == named.method_names == PAPER_METHODS
    assert evaluate_place(load("methods=[paper]")) == evaluate_place(named)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["methods=[knnn]"], r"^methods must be among paper, openmax, .*, got 'knnn'; did you mean knn\.$"),
        (["methods=[paper,msp]"], r"^methods must be without repeats, .*; name each once; paper has all but grad_norm"),
        (
            ["methods=[msp]", "train.algorithm=vos"],
            r"^train\.algorithm must be left out while methods are given, got 'vos'; name what is wanted in methods",
        ),
        (["methods=[msp]", "train.ensemble_size=3"], r"^train\.ensemble_size must be left out while methods"),
        (["methods=[msp]", "evaluate.detectors=[knn]"], r"^evaluate\.detectors must be left out while methods"),
        (["methods=[msp]", "evaluate.outputs={sio: [a]}"], r"^evaluate\.outputs must be left out while methods"),
    ],
)
def test_what_contradicts_the_methods_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)


def test_methods_survive_a_round_trip():
    config = load("methods=[paper]")
    assert with_overrides(config, {}) == config
