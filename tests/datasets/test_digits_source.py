"""The digits source: each picture in one set, classes renumbered, everything a function of the seed."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sio_ray.config import PrepareConfig
from sio_ray.datasets import SOURCES, SourceCollection, load_source
from sio_ray.errors import ConfigError


def config(**changes):
    return PrepareConfig(**{"images_per_ood_set": 24, "num_outliers": 24, **changes})


@pytest.fixture(scope="module")
def digits() -> SourceCollection:
    return load_source(config())


def row_of(path: str) -> int:
    source, row = path.split("/")
    assert source == "sklearn-digits"
    return int(row)


def test_every_digit_is_in_exactly_one_split(digits):
    near = [*digits.near_val.values(), *digits.near_test.values()]
    rows = [row_of(path) for part in (digits.train, digits.val, digits.test, *near) for path in part.paths]
    assert sorted(rows) == list(range(1797))


def test_splits_hold_their_share_of_every_class(digits):
    target = load_digits().target
    for digit in range(6):
        total = int((target == digit).sum())
        for part, share in ((digits.train, 0.6), (digits.val, 0.2), (digits.test, 0.2)):
            assert abs(int((part.labels == digit).sum()) - share * total) <= 1
    near_val, near_test = digits.near_val["digits_6_9"], digits.near_test["digits_6_9"]
    assert abs(len(near_val) - 0.2 * (len(near_val) + len(near_test))) <= 4


def test_classes_are_renumbered_in_the_order_given():
    data = load_digits()
    collection = load_source(config(id_classes=(7, 2, 9), near_ood_classes=(0, 4)))
    assert collection.class_names == ("7", "2", "9")
    for part in (collection.train, collection.val, collection.test):
        rows = [row_of(path) for path in part.paths]
        assert [(7, 2, 9)[label] for label in part.labels] == data.target[rows].tolist()
    for near in (collection.near_val, collection.near_test):
        assert list(near) == ["digits_0_and_4"]
        rows = [row_of(path) for path in near["digits_0_and_4"].paths]
        assert set(data.target[rows]) == {0, 4}
        assert set(near["digits_0_and_4"].labels) == {-1}


@pytest.mark.parametrize(("classes", "name"), [((6, 7), "digits_6_7"), ((8, 7, 6), "digits_6_8"), ((9,), "digits_9")])
def test_near_ood_set_is_named_after_its_digits(classes, name):
    assert list(load_source(config(near_ood_classes=classes)).near_test) == [name]


def test_pixels_are_scaled_exactly(digits):
    original = load_digits().images[[row_of(path) for path in digits.train.paths]]
    np.testing.assert_array_equal(digits.train.images[:, 0], np.floor(original * 255 / 16 + 0.5))
    assert digits.train.images.max() == 255


def test_every_set_is_8_px_grey_and_listed_once(digits):
    names = [name for name, _ in digits.sets()]
    assert names == [
        "id/train",
        "id/val",
        "id/test",
        "near_ood/val/digits_6_9",
        "near_ood/test/digits_6_9",
        *(f"far_ood/{part}/{name}" for part in ("val", "test") for name in ("letters", "photo_patches", "noise")),
        "outlier_exposure",
        "mixing",
    ]
    for name, part in digits.sets():
        assert part.images.shape == (len(part), 1, 8, 8)
        assert part.images.dtype == np.uint8
        assert (part.labels >= 0).all() if name.startswith("id/") else (part.labels == -1).all()


def test_same_seed_same_pictures_other_seed_other_pictures(digits):
    again, other = load_source(config()), load_source(config(seed=1))
    for (name, first), (_, second), (_, third) in zip(digits.sets(), again.sets(), other.sets(), strict=True):
        np.testing.assert_array_equal(first.images, second.images, err_msg=name)
        assert first.paths == second.paths
        assert not np.array_equal(first.images, third.images), name


def test_the_training_set_comes_in_a_random_order_drawn_from_the_seed(digits):
    rows = [row_of(path) for path in digits.train.paths]
    assert rows != sorted(rows)
    assert rows == [row_of(path) for path in load_source(config()).train.paths]
    # So that any stretch of it holds every class.
    assert all(set(digits.train.labels[start : start + 60]) == set(range(6)) for start in range(0, 600, 60))


def test_without_a_choice_six_digits_are_id_and_the_others_near_ood(digits):
    assert digits.class_names == tuple("012345")
    assert load_source(config(id_classes=(8, 9))).near_test.keys() == {"digits_0_7"}


def test_counts_do_not_move_the_split(digits):
    assert load_source(config(images_per_ood_set=3, num_outliers=2)).train.paths == digits.train.paths


def test_no_picture_is_shared_between_what_is_trained_or_chosen_on_and_any_ood_test_set(digits):
    tested = [part for sets in (digits.near_test, digits.far_test) for part in sets.values()]
    seen = [digits.train, digits.val, digits.outliers, digits.mixing]
    seen += [*digits.near_val.values(), *digits.far_val.values()]
    test_paths = {path for part in tested for path in part.paths}
    assert not test_paths & {path for part in seen for path in part.paths}
    # Beyond pictures: none of the drawn sets shares so much as a font, a photo or a kind of noise.
    test_sources = {path.split("/")[0] for part in tested for path in part.paths}
    drawn = [digits.outliers, digits.mixing, *digits.far_val.values()]
    assert not test_sources & {path.split("/")[0] for part in drawn for path in part.paths}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id_classes": (3,)}, r"prepare.id_classes must be at least 2 classes, got (3,); name more."),
        ({"near_ood_classes": ()}, "prepare.near_ood_classes must be at least 1 class, got (); name more."),
        (
            {"id_classes": (1, 10)},
            "prepare.id_classes must be classes in [0, 9], got (10,); digits has no others.",
        ),
        (
            {"near_ood_classes": (-1,)},
            "prepare.near_ood_classes must be classes in [0, 9], got (-1,); digits has no others.",
        ),
        (
            {"near_ood_classes": (5, 6)},
            "prepare.near_ood_classes must be disjoint from id_classes, got [5]; keep each class on one side.",
        ),
        ({"id_classes": (1, 2, 1)}, "prepare.id_classes must be without repeats, got (1, 2, 1); name each once."),
    ],
)
def test_wrong_classes_are_named(changes, message):
    with pytest.raises(ConfigError) as error:
        load_source(config(**changes))
    assert str(error.value) == message


def test_the_table_has_every_source_that_the_config_knows():
    assert set(SOURCES) == set(PrepareConfig.model_fields["source"].annotation.__args__)
