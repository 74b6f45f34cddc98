"""The whole measurement on sets of known quality: perfect, mislabelled, collapsed, copied; and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from quality_samples import INFO, NAMES, pictures, write_checkpoint, write_set

from sio_ray import ImageSetInfo
from sio_ray.classifier.checkpoint import load_classifier
from sio_ray.errors import CheckpointError, ConfigError, ImageSetError
from sio_ray.progress import progress_bars
from sio_ray.quality import measure as module
from sio_ray.quality.measure import measure
from sio_ray.quality.neighbours import precision_recall_density_coverage
from sio_ray.quality.reading import read_set
from sio_ray.quality.verdict import verdict


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return load_classifier(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("reference") / "set", *pictures(240, 0))


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("train") / "set", *pictures(150, 1))


def judge(synthetic, reference, **given):
    with progress_bars() as bars:
        return measure(synthetic, reference, bars=bars, **{"classifier": None, "train": None, **given})


def test_a_set_from_the_real_distribution_has_no_fault(tmp_path, classifier, reference, train):
    synthetic = write_set(tmp_path / "set", *pictures(300, 2))
    quality, nearest = judge(synthetic, reference, classifier=classifier, train=train)
    assert verdict(quality).endswith(": these measures find no fault.")
    numbers = quality.overall.numbers()
    assert numbers["diversity"] == pytest.approx(1, abs=0.15)
    assert numbers["relative_distance"] == pytest.approx(1, abs=0.05)
    assert [row.name for row in quality.classes] == list(NAMES)
    assert sum(row.num_synthetic for row in quality.classes) == quality.overall.num_synthetic == 300
    assert sum(row.num_reference for row in quality.classes) == quality.overall.num_reference == 240
    assert sum(row.num_compared for row in quality.classes) == quality.overall.num_compared == 300
    assert (quality.real.num_synthetic, quality.real.num_reference) == (120, 120)
    assert len(nearest.of_synthetic) == 300
    assert len(nearest.of_held_out) == 240


def test_every_class_is_measured_by_its_own_pictures(tmp_path, classifier, reference):
    images, labels = pictures(300, 2)
    labels[0:60:3] = 1  # dark ones that claim to be grey
    synthetic = write_set(tmp_path / "set", images, labels)
    quality, _ = judge(synthetic, reference, classifier=classifier)
    seen = [
        read_set(s, limit=None, num_kept=0, classifier=classifier, advance=lambda n: None)
        for s in (synthetic, reference)
    ]
    for c, row in enumerate(quality.classes):
        of_class = [side.outputs.features[side.labels == c] for side in seen]
        assert row.neighbourhood == precision_recall_density_coverage(*of_class, k=5)
    assert quality.classes[1].labels.agreement == pytest.approx(100 / 120, abs=0.04)
    assert quality.classes[0].labels.agreement == quality.classes[2].labels.agreement == pytest.approx(1, abs=0.04)
    assert (quality.overall.labels.confusion.label, quality.overall.labels.confusion.predicted) == ("grey", "dark")
    assert "too many labels are wrong" in verdict(quality)
    assert quality.overall.memorisation is None


def test_a_collapsed_set_lacks_variety(tmp_path, classifier, reference):
    images, labels = pictures(300, 3)
    synthetic = write_set(tmp_path / "set", images[labels] // 8 * 8, labels)
    quality, _ = judge(synthetic, reference, classifier=classifier)
    assert quality.overall.diversity == 0
    assert quality.overall.neighbourhood.recall < 0.1
    assert "the set lacks variety" in verdict(quality)


def test_copies_are_found_shown_and_told(tmp_path, reference, train):
    images, _ = pictures(200, 4)
    originals, _ = pictures(150, 1)
    images[5:30] = originals[40:65]
    synthetic = write_set(tmp_path / "set", images, (np.arange(200) + 2) % 3)
    quality, nearest = judge(synthetic, reference, train=train)
    assert quality.overall.memorisation.num_copies == sum(c.memorisation.num_copies for c in quality.classes) == 25
    assert {c.memorisation.copy_distance for c in quality.classes} == {nearest.of_held_out.min()}
    assert (nearest.distances == 0).all()
    np.testing.assert_array_equal(nearest.synthetic_images, originals[40:50])
    np.testing.assert_array_equal(nearest.train_images, originals[40:50])
    assert verdict(quality).startswith("25 of 200 pictures are nearer to a training picture than any held-out one")
    assert "there are more copies than chance gives" in verdict(quality)
    assert quality.overall.labels is None


def test_only_the_first_pictures_are_measured_under_a_limit(tmp_path, classifier, reference):
    images, labels = pictures(300, 5)
    whole, part = (
        write_set(tmp_path / "whole", images, labels),
        write_set(tmp_path / "part", images[:100], labels[:100]),
    )
    limited = judge(whole, reference, classifier=classifier, limit=100)
    assert limited[0] == judge(part, reference, classifier=classifier)[0]
    assert judge(whole, reference, classifier=classifier, limit=10**9)[0].overall.num_synthetic == 300


def test_what_too_few_pictures_would_only_guess_is_left_out(tmp_path, classifier, reference):
    synthetic = write_set(tmp_path / "set", *pictures(58, 6))  # 20, 19 and 19 of the classes
    quality, _ = judge(synthetic, reference, classifier=classifier)
    assert [row.neighbourhood is None for row in quality.classes] == [False, True, True]
    # The network has 8 features.
    assert all(row.frechet_distance is not None for row in quality.classes)
    quality, _ = judge(synthetic, reference, classifier=classifier, limit=25)  # 9, 8 and 8
    assert [row.frechet_distance is None for row in quality.classes] == [False, True, True]
    quality, _ = judge(synthetic, reference, classifier=classifier, limit=2)  # none is bright
    assert quality.classes[2].labels is None
    assert quality.classes[2].num_synthetic == 0
    assert quality.overall.diversity is None
    assert "too few pictures for precision and recall" in verdict(quality)


def test_kept_pictures_are_a_choice_that_does_not_depend_on_shards(tmp_path, monkeypatch, train, reference):
    monkeypatch.setattr(module, "MAX_COMPARED", 50)
    images, labels = pictures(200, 7)
    synthetic = write_set(tmp_path / "set", images, labels)
    quality, nearest = judge(synthetic, reference, train=train)
    assert quality.overall.num_compared == quality.num_held_out_compared == 50
    seen = read_set(synthetic, limit=None, num_kept=50, classifier=None, advance=lambda n: None)
    np.testing.assert_array_equal(seen.images, images[seen.kept])
    assert len(set(seen.kept.tolist())) == 50
    torch.testing.assert_close(seen.labels, torch.from_numpy(labels))
    assert len(nearest.of_synthetic) == 50


def test_what_does_not_fit_together_is_refused_before_it_is_read(tmp_path, classifier, reference, train):
    synthetic = write_set(tmp_path / "set", *pictures(30, 8))
    other = write_set(
        tmp_path / "other",
        *pictures(30, 8),
        info=ImageSetInfo(class_names=("a", "b", "c"), height_px=6, width_px=5, channels=1),
    )
    ood = write_set(
        tmp_path / "ood",
        pictures(30, 8)[0],
        np.full(30, -1),
        info=ImageSetInfo(height_px=6, width_px=5, channels=1),
    )

    def message(error, *sets, **given):
        with pytest.raises(error) as caught:
            judge(*sets, **given)
        return str(caught.value)

    assert message(ConfigError, synthetic, reference) == (
        "--classifier or --train must be given, got None; without both, only the pictures per class could be counted."
    )
    assert message(ConfigError, synthetic, reference, train=train, limit=0) == (
        "--limit must be at least 1, got 0; leave it out to measure the whole set."
    )
    assert message(ImageSetError, ood, reference, train=train) == (
        f"image set {ood.uri} names no classes (it is an OOD set); give a synthetic ID set."
    )
    assert message(ImageSetError, synthetic, other, train=train) == (
        f"image set {other.uri} must have the classes and shape of {synthetic.uri}, 3 classes (dark, grey, bright) of "
        "(1, 6, 5), got 3 classes (a, b, c) of (1, 6, 5); give a set of the same data."
    )
    assert re.match("image set .*/other must", message(ImageSetError, synthetic, reference, train=other))
    assert message(ImageSetError, synthetic, train, train=train) == (
        f"--reference must be pictures that the generator never saw, got the training set {train.uri}; "
        "give id/val or id/test, or leave out --train."
    )
    assert message(CheckpointError, other, other, classifier=classifier) == (
        f"the classifier must be for the classes and shape of {other.uri}, 3 classes (a, b, c) of (1, 6, 5), got "
        "3 classes (dark, grey, bright) of (1, 6, 5); give one that was trained on the same data."
    )
    assert INFO.class_names == NAMES
