"""People's own pictures: what is read, how it is split, and what each mistake in the folder is answered with."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from sio_ray.config import PrepareConfig
from sio_ray.datasets import load_source
from sio_ray.errors import ImageSetError

CLASSES = ("cat", "dog")


def save_picture(path, *, value=None, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if value is None:
        value = sum(map(ord, str(path))) % 251
    Image.new("RGB", size, (value, 255 - value, 7)).save(path)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pictures"
    for name, number in itertools.product(CLASSES, range(10)):
        save_picture(root / "train" / name / f"{number}.png")
    for number in range(5):
        save_picture(root / "near_ood" / "fox" / "deep" / f"{number}.png")
    return root


def load(root, **changes):
    values = {"image_size_px": 8, "images_per_ood_set": 6, "num_outliers": 5, **changes}
    return load_source(PrepareConfig(source="image_folder", root=root, **values))


def message_of(root, **changes):
    with pytest.raises(ImageSetError) as error:
        load(root, **changes)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_every_picture_is_in_exactly_one_set(root):
    collection = load(root)
    assert collection.class_names == CLASSES
    id_paths = [path for part in (collection.train, collection.val, collection.test) for path in part.paths]
    assert sorted(id_paths) == sorted(f"train/{name}/{number}.png" for name in CLASSES for number in range(10))
    near = [*collection.near_val["fox"].paths, *collection.near_test["fox"].paths]
    assert sorted(near) == [f"near_ood/fox/deep/{number}.png" for number in range(5)]
    assert [len(part) for part in (collection.train, collection.val, collection.test)] == [12, 4, 4]
    assert (len(collection.near_val["fox"]), len(collection.near_test["fox"])) == (1, 4)


def test_labels_follow_folders(root):
    collection = load(root)
    for part in (collection.train, collection.val, collection.test):
        assert [CLASSES[label] for label in part.labels] == [path.split("/")[1] for path in part.paths]
    assert set(collection.near_test["fox"].labels) == {-1}


@pytest.mark.parametrize("channels", [1, 3])
def test_every_set_has_the_size_and_channels_asked(root, channels):
    for _, part in load(root, channels=channels, image_size_px=9).sets():
        assert part.image_shape == part.read(0).shape == (channels, 9, 9)
        assert part.read(len(part) - 1).dtype == np.uint8


def test_same_seed_same_sets_other_seed_other_split(root):
    first, again, other = load(root), load(root), load(root, seed=1)
    for (_, one), (_, two) in zip(first.sets(), again.sets(), strict=True):
        np.testing.assert_array_equal(one.labels, two.labels)
        assert one.paths == two.paths
    assert first.train.paths != other.train.paths


def test_given_val_and_test_are_used_as_they_are(root):
    for name in CLASSES:
        save_picture(root / "val" / name / "a.JPG")
        save_picture(root / "test" / name / "b.webp")
    collection = load(root)
    assert sorted(collection.train.paths) == sorted(f"train/{c}/{number}.png" for c in CLASSES for number in range(10))
    assert collection.val.paths == ["val/cat/a.JPG", "val/dog/a.JPG"]
    assert collection.test.paths == ["test/cat/b.webp", "test/dog/b.webp"]


def test_only_the_missing_one_is_split_off(root):
    for name in CLASSES:
        save_picture(root / "test" / name / "b.bmp")
    collection = load(root)
    assert (len(collection.train), len(collection.val), len(collection.test)) == (16, 4, 2)


def test_far_ood_is_drawn_unless_given(root):
    assert list(load(root).far_test) == ["letters", "photo_patches", "noise"]
    for number in range(4):
        save_picture(root / "far_ood" / "cars" / f"{number}.png")
    collection = load(root)
    assert list(collection.far_val) == list(collection.far_test) == ["cars"]
    assert {path.split("/")[0] for path in collection.far_test["cars"].paths} == {"far_ood"}


def test_other_files_and_hidden_ones_are_passed_over(root):
    (root / "train" / "cat" / "notes.txt").write_text("no picture")
    (root / "train" / "cat" / "._0.png").write_bytes(b"a Mac's shadow of 0.png")
    (root / "train" / ".cache").mkdir()
    save_picture(root / "near_ood" / "fox" / ".thumbnails" / "0.png")
    collection = load(root)
    assert len(collection.train) + len(collection.val) + len(collection.test) == 20
    assert len(collection.near_val["fox"]) + len(collection.near_test["fox"]) == 5


def test_missing_root(tmp_path):
    path = tmp_path / "nowhere"
    assert message_of(path) == f"prepare.root {path} is no folder; give the one that holds train/<class>/."


def test_missing_train(tmp_path):
    assert message_of(tmp_path) == f"{tmp_path} has no train folder; put pictures in {tmp_path}/train/<class>/."


def test_too_few_classes(root):
    shutil.rmtree(root / "train" / "dog")
    assert message_of(root).startswith(f"{root}/train must hold at least 2 class folders, got 1; add")
    shutil.rmtree(root / "train" / "cat")
    assert message_of(root).startswith(f"{root}/train must hold at least 2 class folders, got 0; add")


@pytest.mark.parametrize("part", ["train", "val"])
def test_class_without_pictures(root, part):
    for name in CLASSES:
        save_picture(root / "val" / name / "a.png")
    for path in (root / part / "dog").iterdir():
        path.unlink()
    assert message_of(root).startswith(f"class folder {root}/{part}/dog holds no picture (.bmp, .jpeg,")


def test_class_folder_missing_from_val(root):
    save_picture(root / "val" / "cat" / "a.png")
    assert message_of(root).startswith(f"class folder {root}/val/dog holds no picture")


def test_class_that_train_has_not(root):
    for name in (*CLASSES, "wolf"):
        save_picture(root / "test" / name / "a.png")
    assert message_of(root) == (
        f"{root}/test has class wolf, which {root}/train has not; "
        "rename it, or move it to near_ood if it is no ID class."
    )


def test_missing_near_ood(root):
    shutil.rmtree(root / "near_ood")
    assert message_of(root).startswith(f"{root} has no near_ood/<set> folder; near-OOD is what SIO is measured on")


def test_empty_ood_set(root):
    (root / "far_ood" / "cars").mkdir(parents=True)
    assert message_of(root).startswith(f"OOD folder {root}/far_ood/cars holds no picture")


def test_ood_pictures_outside_any_set(root):
    save_picture(root / "far_ood" / "a.png")
    assert message_of(root) == (f"{root}/far_ood holds pictures but no set; move them to {root}/far_ood/<set>/.")


def test_ood_set_too_small_to_split(root):
    save_picture(root / "far_ood" / "cars" / "a.png")
    assert message_of(root) == ("OOD set far_ood/cars has too few pictures (1) to be split into 2 parts; add some.")


def test_class_too_small_to_split(root):
    for number in range(2, 10):
        (root / "train" / "dog" / f"{number}.png").unlink()
    assert message_of(root) == "class dog has too few pictures (2) to be split into 3 parts; add some."


def test_no_picture_is_opened_before_it_is_needed(root):
    for path in root.rglob("*.png"):
        path.write_bytes(b"no picture")
    assert len(load(root).train) == 12


def test_outliers_of_ones_own(root):
    assert {path.split("/")[0] for path in load(root).outliers.paths} == {"textures"}
    assert message_of(root, outliers="source").startswith(f"OOD folder {root}/outliers holds no picture")
    for number in range(3):
        save_picture(root / "outliers" / "any" / "deep" / f"{number}.jpg")
    outliers = load(root, outliers="source").outliers
    assert outliers.paths == [f"outliers/any/deep/{number}.jpg" for number in range(3)]
    assert set(outliers.labels) == {-1}
