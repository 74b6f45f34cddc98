"""CIFAR: every byte of the archives ends in one picture of one set, and the OOD sets are those that are asked for."""

import numpy as np
import pytest
from published_samples import write_cifar, write_cifar_root, write_mnist, write_svhn, write_tar

from sio_ray.config import PrepareConfig
from sio_ray.datasets import cifar, load_source
from sio_ray.errors import ConfigError, ImageSetError


def load(root, source="cifar10", **changes):
    values = {"val_fraction": 0.1, "images_per_ood_set": 6, "num_outliers": 5, "far_ood_sets": ("noise",), **changes}
    return load_source(PrepareConfig(source=source, root=root, **values))


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in cifar.ARCHIVES:
        write_cifar(tmp_path, name, monkeypatch)
    return tmp_path


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_is_read_byte_for_byte(tmp_path, monkeypatch, name):
    train, test = write_cifar(tmp_path, name, monkeypatch)
    class_names, *parts = cifar.read_archive(tmp_path, name, download=False)
    assert class_names == tuple(f"{name}_{label}" for label in range(10))
    for part, (images, labels) in zip(parts, (train, test), strict=True):
        np.testing.assert_array_equal(part.images, images)
        np.testing.assert_array_equal(part.labels, labels)
        assert len(set(part.paths)) == len(part)


@pytest.mark.parametrize(("name", "other"), [("cifar10", "cifar100"), ("cifar100", "cifar10")])
def test_the_test_sets_of_both_are_divided_class_by_class(root, name, other):
    collection = load(root, name)
    assert len(collection.train) == 100
    assert all(path.startswith(f"{name}/") for path in collection.train.paths)
    pairs = ((collection.val, collection.test, name), (collection.near_val[other], collection.near_test[other], other))
    for val, test, source in pairs:
        assert (len(val), len(test)) == (10, 30)  # at least one of each class, of which there are 4
        assert len({*val.paths, *test.paths}) == 40
        assert {path.rsplit("/", 1)[0] for path in (*val.paths, *test.paths)} == {
            f"{source}/{cifar.ARCHIVES[source].test.removesuffix('.bin')}"
        }
    assert set(collection.val.labels) == set(range(10))
    assert set(collection.near_test[other].labels) == {-1}


def test_the_sizes_are_those_of_openood(tmp_path, monkeypatch):
    write_cifar(tmp_path, "cifar10", monkeypatch, num_train=50, num_test=10_000)
    write_cifar(tmp_path, "cifar100", monkeypatch, num_train=50, num_test=10_000)
    collection = load(tmp_path)
    assert (len(collection.val), len(collection.test)) == (1_000, 9_000)
    assert (len(collection.near_val["cifar100"]), len(collection.near_test["cifar100"])) == (1_000, 9_000)
    assert set(np.bincount(collection.val.labels)) == {100}


def test_by_default_far_ood_is_whole_and_for_test_alone(tmp_path, monkeypatch):
    write_cifar_root(tmp_path, monkeypatch)
    collection = load(tmp_path, far_ood_sets=None)
    assert {name: len(part) for name, part in collection.far_test.items()} == {
        "mnist": 12,
        "svhn": 6,
        "textures": 4,
        "places365": 5,
    }
    assert collection.far_val == {}
    assert list(collection.near_test) == ["cifar100"]
    for name, part in collection.sets():
        assert part.read(len(part) - 1).shape == (3, 32, 32), name
        assert (part.labels >= 0).all() if name.startswith("id/") else (part.labels == -1).all()
    paths = [path for _, part in collection.sets() for path in part.paths]
    assert len(set(paths)) == len(paths)


def test_published_pictures_keep_their_pixels(tmp_path, monkeypatch):
    mnist, svhn = write_mnist(tmp_path, monkeypatch), write_svhn(tmp_path, monkeypatch)
    write_cifar(tmp_path, "cifar10", monkeypatch)
    write_cifar(tmp_path, "cifar100", monkeypatch)
    collection = load(tmp_path, far_ood_sets=("mnist", "svhn"))
    np.testing.assert_array_equal(collection.far_test["svhn"].images, svhn)
    enlarged = collection.far_test["mnist"].images
    assert (enlarged[:, 0] == enlarged[:, 2]).all()
    # Enlarging keeps what is bright bright, and the order of the pictures.
    assert np.abs(enlarged[:, 0].mean(axis=(1, 2)) - mnist.mean(axis=(1, 2))).max() < 3


def test_tiny_imagenet_is_near_ood_or_trains_outlier_exposure(tmp_path, monkeypatch):
    write_cifar_root(tmp_path, monkeypatch)
    near = load(tmp_path, near_ood_sets=("cifar100", "tin"))
    assert (len(near.near_val["tin"]), len(near.near_test["tin"])) == (1, 9)
    assert {path.split("/")[0] for path in near.outliers.paths} == {"textures"}
    outliers = load(tmp_path, outliers="source").outliers
    assert len(outliers) == 6
    assert {path.split("/")[1] for path in outliers.paths} == {"train"}
    with pytest.raises(ConfigError) as error:
        load(tmp_path, near_ood_sets=("tin",), outliers="source")
    assert str(error.value) == (
        "prepare.near_ood_sets must be without tin while prepare.outliers is source, got ('tin',); "
        "outlier exposure would train on what is tested."
    )


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("near_ood_sets", "cifar100, tin"),
        ("far_ood_sets", "mnist, svhn, textures, places365, letters, photo_patches, noise"),
    ],
)
def test_unknown_sets_are_named_beside_the_known(root, field, known):
    with pytest.raises(ConfigError) as error:
        load(root, **{field: ("lsun",)})
    assert str(error.value) == f"prepare.{field} must be among {known}, got ('lsun',); choose from these."


def test_an_unpacked_set_that_is_not_whole_is_refused(tmp_path, monkeypatch):
    write_cifar_root(tmp_path, monkeypatch)
    load(tmp_path, far_ood_sets=("textures",))
    next((tmp_path / "dtd" / "dtd" / "images").rglob("*.jpg")).unlink()
    with pytest.raises(ImageSetError) as error:
        load(tmp_path, far_ood_sets=("textures",))
    assert str(error.value) == (
        f"{tmp_path}/dtd/dtd/images must hold 4 pictures, got 3; delete it to unpack its archive anew."
    )


@pytest.mark.parametrize("members", [{}, {"cifar-10-batches-bin/data_batch_1.bin": b"123"}])
def test_an_archive_with_other_contents_is_refused(root, monkeypatch, members):
    path = root / "cifar-10-binary.tar.gz"
    write_tar(path, members)
    monkeypatch.setattr(cifar, "find", lambda file, folder, *, download: path)
    with pytest.raises(
        ImageSetError, match=r"cifar-10-binary\.tar\.gz is no binary version of cifar10 \(.*; fetch http"
    ):
        cifar.read_archive(root, "cifar10", download=False)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(ImageSetError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/cifar-10-binary.tar.gz is missing; set prepare.download=true, or fetch "
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz yourself and put it there."
    )
