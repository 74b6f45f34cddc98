"""ImageNet: class numbers are those of the sorted folders, and what is not ID is near-OOD."""

import numpy as np
import pytest
from PIL import Image

from sio_ray.config import PrepareConfig
from sio_ray.datasets import load_source
from sio_ray.datasets.imagenet import class_names
from sio_ray.errors import ConfigError, ImageSetError

ID = (31, 62, 94)
NEAR = (404, 751)
NUM_VAL = 10


def folder_of(number):
    return f"n{number:08d}"


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (9, 99, 199)).save(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A thousand class folders, of which five hold pictures."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        (root / "train" / folder_of(number)).mkdir(parents=True)
    for number in (*ID, *NEAR):
        for index in range(3):
            save(root / "train" / folder_of(number) / f"{folder_of(number)}_{index}.JPEG")
        for index in range(NUM_VAL):
            save(root / "val" / folder_of(number) / f"ILSVRC2012_val_{number:05d}{index:03d}.JPEG")
    return root


def load(root, **changes):
    values = {"id_classes": ID, "near_ood_classes": NEAR, "val_fraction": 0.1, "image_size_px": 16}
    values |= {"images_per_ood_set": 4, "num_outliers": 4, **changes}
    return load_source(PrepareConfig(source="imagenet", root=root, **values))


def test_labels_follow_the_classes_in_the_order_given(whole):
    collection = load(whole, id_classes=(94, 31))
    assert collection.class_names == ("hummingbird", "tree frog")
    for part, folder, count in (
        (collection.train, "train", 6),
        (collection.val, "val", 2),
        (collection.test, "val", 18),
    ):
        assert len(part) == count
        assert [f"{folder}/{folder_of((94, 31)[label])}" for label in part.labels] == [
            path.rsplit("/", 1)[0] for path in part.paths
        ]


def test_classes_that_are_held_out_are_near_ood(whole):
    collection = load(whole)
    val, test = collection.near_val["other_classes"], collection.near_test["other_classes"]
    assert (len(val), len(test)) == (2, 18)
    assert {path.split("/")[1] for path in (*val.paths, *test.paths)} == {folder_of(number) for number in NEAR}
    assert set(test.labels) == {-1}
    assert list(collection.far_test) == ["letters", "photo_patches", "noise"]


def test_sets_in_folders_come_on_top(whole, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for name in ("train", "val"):
        (root / name).symlink_to(whole / name)
    for index in range(4):
        save(root / "near_ood" / "ninco" / "deep" / f"{index}.jpeg")
        save(root / "far_ood" / "inaturalist" / f"{index}.jpg")
    collection = load(root)
    assert list(collection.near_test) == ["ninco", "other_classes"]
    assert list(collection.far_test) == ["inaturalist"]
    assert list(load(root, near_ood_classes=()).near_test) == ["ninco"]


def test_without_any_near_ood_set_the_message_says_where_to_put_one(whole):
    with pytest.raises(
        ImageSetError, match=rf"^{whole} has no near_ood/<set> folder, and no class is left for near-OOD"
    ):
        load(whole, near_ood_classes=())


def test_by_default_all_other_classes_are_near_ood(whole):
    # Those without pictures are missed, which shows that they are looked for.
    with pytest.raises(ImageSetError, match=rf"^class folder {whole}/val/{folder_of(0)} holds no picture"):
        load(whole, near_ood_classes=None)
    with pytest.raises(ImageSetError, match=rf"^class folder {whole}/train/{folder_of(0)} holds no picture"):
        load(whole, id_classes=None, near_ood_classes=None)


def test_a_class_that_is_none_is_named(whole):
    with pytest.raises(ConfigError) as error:
        load(whole, id_classes=(1, 1000))
    assert str(error.value) == "prepare.id_classes must be classes in [0, 999], got (1000,); imagenet has no others."


@pytest.mark.parametrize(("number", "what"), [(999, "999"), (1001, "1,001")])
def test_class_numbers_need_all_thousand_folders(tmp_path, number, what):
    for index in range(number):
        (tmp_path / "train" / folder_of(index)).mkdir(parents=True)
    (tmp_path / "val").mkdir()
    with pytest.raises(ImageSetError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/train must hold the 1,000 class folders of ImageNet-1K, named like n01440764, got {what}; for a "
        "part of ImageNet that you keep by itself take the source image_folder."
    )


def test_strange_folders_are_named(whole, tmp_path):
    (tmp_path / "train" / "tench").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    with pytest.raises(ImageSetError, match=r"named like n01440764, got 'tench' among them; for"):
        load(tmp_path)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_folder_is_named(tmp_path, part):
    (tmp_path / ({"train", "val"} - {part}).pop()).mkdir()
    with pytest.raises(
        ImageSetError, match=rf"^{tmp_path} has no {part} folder; put ImageNet's pictures in {tmp_path}/"
    ):
        load(tmp_path)


def test_names_are_one_for_each_class():
    names = class_names()
    assert len(set(names)) == 1000
    assert [names[number] for number in (0, 31, 404, 999)] == ["tench", "tree frog", "airliner", "toilet tissue"]
    assert np.all([name.strip() == name for name in names])
