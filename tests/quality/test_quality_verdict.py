"""The rules of the verdict, one at a time, at both sides of their margins."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from sio_ray.quality.agreement import LabelAgreement
from sio_ray.quality.measure import Measures, Quality
from sio_ray.quality.memorisation import Memorisation
from sio_ray.quality.neighbours import Neighbourhood
from sio_ray.quality.verdict import chance_of_copies, verdict

FINE = Measures(
    "all",
    10_000,
    10_000,
    labels=LabelAgreement(0.97, 0.9, None),
    neighbourhood=Neighbourhood(0.9, 0.9, 1.0, 0.9),
    diversity=1.0,
    memorisation=Memorisation(0.1, 0.1, 0.05, 0),
    num_compared=10_000,
)


def say(**changes) -> str:
    """The findings, after the numbers."""
    overall = replace(FINE, **changes)
    sentence = verdict(Quality(overall, replace(FINE, name="real", memorisation=None), (), 5, 10_000))
    assert sentence.count(": ") == 1
    return sentence.split(": ")[1]


def test_the_whole_sentence():
    quality = Quality(
        replace(FINE, neighbourhood=Neighbourhood(0.88, 0.61, 1.0, 0.7)), replace(FINE, memorisation=None), (), 5, 500
    )
    assert verdict(quality) == (
        "97.0 % of the labels agree (of real pictures 97.0 %), precision is 0.88 (real 0.90), recall 0.61 (real 0.90), "
        "0 of 10,000 pictures are nearer to a training picture than any held-out one: the set lacks variety."
    )


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({}, "these measures find no fault."),
        ({"labels": LabelAgreement(0.93, 0.9, None)}, "these measures find no fault."),
        ({"labels": LabelAgreement(0.91, 0.9, None)}, "too many labels are wrong."),
        ({"neighbourhood": Neighbourhood(0.81, 0.81, 0.81, 0.1)}, "these measures find no fault."),
        ({"neighbourhood": Neighbourhood(0.79, 0.9, 1.0, 0.9)}, "many pictures lie where real ones are rare."),
        ({"neighbourhood": Neighbourhood(0.9, 0.9, 0.79, 0.9)}, "many pictures lie where real ones are rare."),
        ({"neighbourhood": Neighbourhood(0.9, 0.79, 1.0, 0.9)}, "the set lacks variety."),
        ({"diversity": 0.79}, "the set lacks variety."),
        ({"memorisation": Memorisation(0.1, 0.1, 0.05, 5)}, "these measures find no fault."),
        ({"memorisation": Memorisation(0.1, 0.1, 0.05, 20)}, "there are more copies than chance gives."),
        ({"memorisation": Memorisation(0.079, 0.1, 0.05, 0)}, "pictures keep close to the training set."),
        ({"memorisation": Memorisation(0.1, 0.1, 0.0, 20)}, "these measures find no fault."),
        (
            {"labels": LabelAgreement(0.5, 0.5, None), "diversity": 0.5},
            "too many labels are wrong and the set lacks variety.",
        ),
    ],
)
def test_each_rule(changes, finding):
    assert say(**changes) == finding


def test_few_pictures_find_less():
    lower = {"labels": LabelAgreement(0.85, 0.9, None)}
    assert say(**lower) == "too many labels are wrong."
    assert say(**lower, num_synthetic=30) == "these measures find no fault."


def test_a_classifier_that_is_wrong_on_real_pictures_is_no_judge():
    poor = replace(FINE, labels=LabelAgreement(0.49, 0.4, None))
    assert verdict(Quality(poor, poor, (), 5, 10_000)).endswith(
        ": the classifier is wrong on most real pictures, so what it sees says little."
    )


@pytest.mark.parametrize("num_copies", range(4))
def test_chance_is_the_share_of_orders_in_which_the_nearest_are_all_synthetic(num_copies):
    orders = list(permutations("sssrr"))
    share = sum(all(kind == "s" for kind in order[:num_copies]) for order in orders) / len(orders)
    assert chance_of_copies(num_copies, 3, 2) == pytest.approx(share)
