"""Fashion-MNIST: IDX files read byte for byte, classes divided, and no picture on two sides."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image
from published_samples import pixels, write_fashion_mnist, write_idx
from sklearn.datasets import load_digits

from sio_ray.config import PrepareConfig
from sio_ray.datasets import fashion_mnist, load_source
from sio_ray.datasets.idx import read_idx
from sio_ray.errors import ConfigError, ImageSetError


def load(**changes):
    values = {"val_fraction": 0.1, "images_per_ood_set": 6, "num_outliers": 5, **changes}
    return load_source(PrepareConfig(source="fashion_mnist", **values))


@pytest.fixture
def published(tmp_path, monkeypatch):
    return write_fashion_mnist(tmp_path / "FashionMNIST" / "raw", monkeypatch)


def test_classes_are_divided_and_every_picture_keeps_its_label(tmp_path, published):
    collection = load(root=tmp_path)
    assert collection.class_names == ("t-shirt", "trouser", "dress", "coat", "sandal", "sneaker", "bag")
    id_classes = (0, 1, 3, 4, 5, 7, 8)
    parts = {"train": "train", "val": "train", "test": "test"}
    for part, file in parts.items():
        found, (images, labels) = getattr(collection, part), published[file]
        rows = [int(path.split("/")[-1]) for path in found.paths]
        assert {path.rsplit("/", 1)[0] for path in found.paths} == {f"fashion-mnist/{file}"}
        np.testing.assert_array_equal(found.images[:, 0], images[rows])
        assert [id_classes[label] for label in found.labels] == labels[rows].tolist()
    # 20 of each class in the training file, 6 in the test file.
    assert (len(collection.train), len(collection.val), len(collection.test)) == (126, 14, 42)
    assert not set(collection.train.paths) & set(collection.val.paths)


def test_a_share_of_the_training_set_is_balanced_part_of_a_larger_one_and_changes_no_other_set(tmp_path, published):
    whole, half, least = (load(root=tmp_path, train_fraction=share) for share in (1.0, 0.5, 0.01))
    assert np.bincount(whole.train.labels).tolist() == [18] * 7
    assert np.bincount(half.train.labels).tolist() == [9] * 7
    assert np.bincount(least.train.labels).tolist() == [1] * 7
    assert set(least.train.paths) < set(half.train.paths) < set(whole.train.paths)
    for (name, of_whole), (_, of_half) in zip(whole.sets()[1:], half.sets()[1:], strict=True):
        assert (name, of_whole.paths) == (name, of_half.paths)


def test_near_ood_is_of_the_other_classes(tmp_path, published):
    collection = load(root=tmp_path)
    val, test = collection.near_val["classes_2_6_9"], collection.near_test["classes_2_6_9"]
    for part, file in ((val, "train"), (test, "test")):
        rows = [int(path.split("/")[-1]) for path in part.paths]
        assert set(published[file][1][rows]) == {2, 6, 9}
        assert set(part.labels) == {-1}
    assert (len(val), len(test)) == (6, 18)
    assert list(load(root=tmp_path, id_classes=(8, 9), near_ood_classes=(7, 5)).near_test) == ["classes_5_7"]


def test_far_ood_has_every_digit_enlarged_once(tmp_path, published):
    collection = load(root=tmp_path)
    assert list(collection.far_test) == list(collection.far_val) == ["digits", "letters", "photo_patches", "noise"]
    val, test = collection.far_val["digits"], collection.far_test["digits"]
    assert sorted(val.paths + test.paths) == [f"sklearn-digits/{row:04d}" for row in range(1797)]
    shrunk = np.asarray(Image.fromarray(test.images[0, 0]).resize((8, 8), Image.Resampling.BOX))
    original = load_digits().images[int(test.paths[0].split("/")[1])]
    assert np.corrcoef(shrunk.ravel(), original.ravel())[0, 1] > 0.95
    for _, part in collection.sets():
        assert part.image_shape == (1, 28, 28)


def test_debians_package_is_found_without_a_root(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "share")
    with pytest.raises(ImageSetError) as error:
        load()
    assert str(error.value) == (
        f"there is no {tmp_path}/share; install Debian's package dataset-fashion-mnist, or set prepare.root=data "
        "prepare.download=true."
    )
    write_fashion_mnist(tmp_path / "share", monkeypatch)
    assert len(load().test) == 42


def test_other_files_than_the_published_are_refused(tmp_path):
    write_idx(tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz", pixels(3, 28, 28))
    with pytest.raises(
        ImageSetError, match=r"train-images-idx3-ubyte\.gz is not the file that was published \(its MD5 is"
    ):
        load(root=tmp_path)


def test_pictures_and_labels_must_belong_together(tmp_path, published, monkeypatch):
    images, _ = fashion_mnist.FILES["train"]
    _, labels = fashion_mnist.FILES["test"]
    monkeypatch.setitem(fashion_mnist.FILES, "train", (images, labels))
    with pytest.raises(ImageSetError, match=r"ubyte\.gz has 200 pictures, .*ubyte\.gz 60 labels; fetch both again\.$"):
        load(root=tmp_path)


def test_a_class_that_is_none_is_named(tmp_path, published):
    with pytest.raises(ConfigError) as error:
        load(root=tmp_path, id_classes=(0, 10, 11))
    assert str(error.value) == (
        "prepare.id_classes must be classes in [0, 9], got (10, 11); fashion_mnist has no others."
    )


def test_idx_round_trip(tmp_path):
    array = pixels(5, 4, 3)
    write_idx(tmp_path / "a.gz", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz", 3), array)


def packed(data):
    """Without the time, which is in the names of tests."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no gzip", "Not a gzipped file"),
        (packed(b"\0\0\x08\x03" + bytes(100))[:-12], "ended before"),
        (packed(b"\0"), "requires a buffer"),
        (packed(struct.pack(">HBBI", 0, 8, 1, 5)), "it holds type 8 in 1 dimensions, not bytes in 3"),
        (packed(struct.pack(">HBBIII", 0, 13, 3, 1, 1, 1)), "it holds type 13 in 3 dimensions"),
        (packed(struct.pack(">HBBIII", 0, 8, 3, 2, 2, 2) + bytes(7)), "cannot reshape array of size 7"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path, data, reason):
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(ImageSetError, match=rf"a\.gz is no IDX file \(.*{reason}.*\); delete it and fetch it again\.$"):
        read_idx(tmp_path / "a.gz", 3)
