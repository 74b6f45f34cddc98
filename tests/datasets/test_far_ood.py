"""Drawn sets: shape, variety and determinism at any size, and what letters and textures must not be."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from sio_ray.datasets.drawn import draw_far_ood, draw_mixing, draw_outliers
from sio_ray.datasets.letters import FONT_FAMILIES, LETTERS, TEST_FAMILIES, VAL_FAMILIES, draw_letters
from sio_ray.datasets.noise import KINDS as NOISE_KINDS
from sio_ray.datasets.noise import TEST_KINDS, VAL_KINDS
from sio_ray.datasets.photo_patches import TEST_PHOTO, VAL_PHOTO, cut_photo_patches
from sio_ray.datasets.textures import KINDS as TEXTURE_KINDS
from sio_ray.seeding import numpy_generator

COUNT = 48
SIZES = [(8, 8, 1), (32, 32, 3), (12, 20, 3)]


def drawn_sets(height_px, width_px, channels, seed=0):
    shape = (COUNT, height_px, width_px, channels, seed)
    val, test = draw_far_ood(*shape)
    return {
        **{f"val/{name}": part for name, part in val.items()},
        **{f"test/{name}": part for name, part in test.items()},
        "outliers": draw_outliers(*shape),
        "mixing": draw_mixing(*shape),
    }


@pytest.fixture(scope="module", params=SIZES, ids=["8px grey", "32px RGB", "12x20px RGB"])
def size_and_sets(request):
    return request.param, drawn_sets(*request.param)


def test_shape_type_label_and_provenance(size_and_sets):
    (height_px, width_px, channels), sets = size_and_sets
    assert len(sets) == 8
    for name, part in sets.items():
        assert part.images.shape == (COUNT, channels, height_px, width_px), name
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert set(part.labels) == {-1}
        assert len(part.paths) == COUNT


def test_no_picture_is_flat_or_drawn_twice(size_and_sets):
    _, sets = size_and_sets
    for name, part in sets.items():
        pixels = part.images.reshape(COUNT, -1)
        assert (np.ptp(pixels, axis=1) >= 30).all(), name
        assert len(np.unique(pixels, axis=0)) == COUNT, name


def test_same_seed_same_pictures_other_seed_other_pictures():
    first, again, other = drawn_sets(8, 8, 3), drawn_sets(8, 8, 3), drawn_sets(8, 8, 3, seed=1)
    for name in first:
        np.testing.assert_array_equal(first[name].images, again[name].images, err_msg=name)
        assert first[name].paths == again[name].paths
        assert not np.array_equal(first[name].images, other[name].images), name


def test_colour_pictures_are_in_colour(size_and_sets):
    (_, _, channels), sets = size_and_sets
    if channels == 3:
        for name, part in sets.items():
            assert (part.images[:, 0] != part.images[:, 2]).any(axis=(1, 2)).all(), name


def test_validation_test_and_training_share_no_source(size_and_sets):
    _, sets = size_and_sets
    sources = {name: {path.split("/")[0] for path in part.paths} for name, part in sets.items()}
    for name, others in sources.items():
        for other_name, other in sources.items():
            assert name == other_name or not others & other, (name, other_name)


def test_sources_are_disjoint_by_construction():
    assert not set(TEST_FAMILIES) & set(VAL_FAMILIES)
    assert {*TEST_FAMILIES, *VAL_FAMILIES} == set(FONT_FAMILIES)
    faces = [face for family in FONT_FAMILIES.values() for face in family]
    assert len(set(faces)) == len(faces)
    assert not set(TEST_KINDS) & set(VAL_KINDS)
    assert {*TEST_KINDS, *VAL_KINDS} == set(NOISE_KINDS)
    assert TEST_PHOTO != VAL_PHOTO


def test_no_letter_that_reads_as_a_digit():
    assert not set(LETTERS) & set("oODQUuCcaeIilLJjTtfrZzSsBbGgqYy")
    part = draw_letters(400, 8, 8, 1, numpy_generator(0, "x"), families=FONT_FAMILIES)
    assert {path.split("/")[1] for path in part.paths} <= set(LETTERS)


def test_letters_come_in_equal_shares():
    num_choices = len(LETTERS) * len(FONT_FAMILIES["DejaVuSerif"])
    part = draw_letters(2 * num_choices, 8, 8, 1, numpy_generator(0, "x"), families=["DejaVuSerif"])
    drawn = [path.rsplit("/", 1)[0] for path in part.paths]
    assert sorted(drawn) == sorted(2 * list(dict.fromkeys(drawn)))
    assert len(set(drawn)) == num_choices


def test_letters_are_bright_on_dark_and_fill_the_picture():
    part = draw_letters(300, 28, 28, 1, numpy_generator(0, "x"), families=FONT_FAMILIES)
    ink = part.images[:, 0] > 127
    assert (part.images.max(axis=(1, 2, 3)) == 255).all()
    assert (ink.mean(axis=(1, 2)) < 0.65).all()
    extent = np.maximum(ink.any(axis=1).sum(axis=1), ink.any(axis=2).sum(axis=1))
    assert (extent >= 0.75 * 28).all()


def test_two_letters_of_one_face_differ():
    part = draw_letters(len(LETTERS), 28, 28, 1, numpy_generator(0, "x"), families=["DejaVuSans"])
    pictures = part.images.reshape(len(LETTERS), -1).astype(float)
    assert np.corrcoef(pictures)[np.triu_indices(len(LETTERS), 1)].max() < 0.99


@pytest.mark.parametrize("size_px", [8, 32, 600])
def test_photo_patches_come_small_and_large(size_px):
    part = cut_photo_patches(30, size_px, size_px, 1, numpy_generator(0, "x"), photo=TEST_PHOTO)
    widths = [int(path.split("w=")[1].split(",")[0]) for path in part.paths]
    assert max(widths) > 2 * min(widths)
    assert max(widths) <= 427


def test_a_patch_as_large_as_its_crop_is_the_photo_itself():
    photo = load_sample_image(VAL_PHOTO)
    part = cut_photo_patches(40, 320, 320, 3, numpy_generator(0, "x"), photo=VAL_PHOTO)
    for image, path in zip(part.images, part.paths, strict=True):
        place = dict(pair.split("=") for pair in path.split("/")[1].split(","))
        left, top, width, height = (int(place[key]) for key in "xywh")
        crop = photo[top : top + height, left : left + width]
        assert np.abs(image.mean(axis=(1, 2)) - crop.mean(axis=(0, 1))).max() < 2.0


def test_every_kind_of_texture_is_drawn():
    part = draw_outliers(COUNT, 16, 16, 1, seed=0)
    assert {path.split("/")[1] for path in part.paths} == set(TEXTURE_KINDS)


def test_textures_keep_their_contrast_at_8_px():
    part = draw_outliers(240, 8, 8, 1, seed=0)
    assert np.median(part.images.std(axis=(1, 2, 3))) > 25


def test_large_fractals_keep_their_size_and_tones():
    part = draw_mixing(2, 120, 200, 3, seed=0)
    assert part.images.shape == (2, 3, 120, 200)
    assert (part.images.std(axis=(1, 2, 3)) > 15).all()


def test_fractals_fill_the_picture():
    part = draw_mixing(60, 8, 8, 1, seed=0)
    assert ((part.images > 25).mean(axis=(1, 2, 3)) >= 0.3).all()
    assert part.images.std(axis=(1, 2, 3)).min() > 20
