"""Small files in the formats in which data sets are published, and the checksums that go with them."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.io import savemat

from sio_ray.datasets import cifar, dtd, fashion_mnist, mnist, places365, svhn, tiny_imagenet


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def jpeg(seed, size=(70, 50)):
    stream = io.BytesIO()
    Image.fromarray(pixels(size[1], size[0], 3, seed=seed)).save(stream, "JPEG")
    return stream.getvalue()


def with_md5(file, path):
    """The entry of a table for the file that a test wrote in place of the published one."""
    return replace(file, md5=hashlib.md5(path.read_bytes()).hexdigest(), other_md5s=())


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_cifar(root, name, monkeypatch, *, num_train=100, num_test=40, num_classes=10):
    """The binary version of CIFAR-10 or CIFAR-100; returns pictures and labels of its training and of its test set."""
    archive = cifar.ARCHIVES[name]
    members, parts = {}, []
    counts = [num_train // len(archive.train)] * len(archive.train) + [num_test]
    for seed, (file, count) in enumerate(zip((*archive.train, archive.test), counts, strict=True)):
        images, labels = pixels(count, 3, 32, 32, seed=seed), (np.arange(count) % num_classes).astype(np.uint8)
        coarse = [np.full(count, 77, np.uint8)] * (archive.num_label_bytes - 1)
        records = np.column_stack([*coarse, labels, images.reshape(count, -1)])
        members[f"{archive.folder}/{file}"] = records.tobytes()
        parts.append((images, labels))
    names = "\n".join(f"{name}_{label}" for label in range(num_classes))
    members[f"{archive.folder}/{archive.class_names}"] = f"{names}\n\n".encode()
    path = root / archive.file.name
    write_tar(path, members)
    monkeypatch.setitem(cifar.ARCHIVES, name, replace(archive, file=with_md5(archive.file, path)))
    train = tuple(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    return train, parts[-1]


def write_fashion_mnist(folder, monkeypatch, *, num_train=200, num_test=60):
    """All four files; returns pictures and labels of each part."""
    parts, files = {}, {}
    for seed, (part, count) in enumerate({"train": num_train, "test": num_test}.items()):
        parts[part] = pixels(count, 28, 28, seed=seed), (np.arange(count) % 10).astype(np.uint8)
        for file, array in zip(fashion_mnist.FILES[part], parts[part], strict=True):
            write_idx(folder / file.name, array)
        files[part] = tuple(with_md5(file, folder / file.name) for file in fashion_mnist.FILES[part])
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    return parts


def write_mnist(root, monkeypatch, *, counts=(7, 5)):
    parts = {}
    for seed, ((part, file), count) in enumerate(zip(mnist.FILES.items(), counts, strict=True)):
        path = root / "MNIST" / "raw" / file.name
        parts[part] = pixels(count, 28, 28, seed=seed)
        write_idx(path, parts[part])
        monkeypatch.setitem(mnist.FILES, part, with_md5(file, path))
    return np.concatenate(list(parts.values()))


def write_svhn(root, monkeypatch, *, count=6):
    images = pixels(count, 3, 32, 32)
    path = root / svhn.FILE.name
    savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": np.ones((count, 1), np.uint8)})
    monkeypatch.setattr(svhn, "FILE", with_md5(svhn.FILE, path))
    return images


def write_dtd(root, monkeypatch, *, count=4):
    members = {f"dtd/images/banded/banded_{seed:04d}.jpg": jpeg(seed) for seed in range(count)}
    path = root / "dtd" / dtd.FILE.name
    write_tar(path, {**members, "dtd/images/banded/.directory": b"", "dtd/labels/test1.txt": b""})
    monkeypatch.setattr(dtd, "FILE", with_md5(dtd.FILE, path))
    monkeypatch.setattr(dtd, "_NUM_PICTURES", count)


def write_places365(root, monkeypatch, *, count=5):
    path = root / places365.FILE.name
    write_tar(path, {f"val_256/Places365_val_{seed:08d}.jpg": jpeg(seed) for seed in range(count)})
    monkeypatch.setattr(places365, "FILE", with_md5(places365.FILE, path))
    monkeypatch.setattr(places365, "_NUM_PICTURES", count)


def write_tiny_imagenet(root, monkeypatch, *, num_train=6, num_val=10):
    path = root / tiny_imagenet.FILE.name
    with zipfile.ZipFile(path, "w") as archive:
        for seed in range(num_train):
            archive.writestr(f"tiny-imagenet-200/train/n01443537/images/n01443537_{seed}.JPEG", jpeg(seed, (64, 64)))
        for seed in range(num_val):
            archive.writestr(f"tiny-imagenet-200/val/images/val_{seed}.JPEG", jpeg(seed, (64, 64)))
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "")
    monkeypatch.setattr(tiny_imagenet, "FILE", with_md5(tiny_imagenet.FILE, path))
    monkeypatch.setattr(tiny_imagenet, "_NUM_PICTURES", {"train": num_train, "val": num_val})


def write_cifar_root(root, monkeypatch):
    """All files that the source `cifar10`, or `cifar100`, can ask for."""
    root.mkdir(parents=True, exist_ok=True)
    for name in cifar.ARCHIVES:
        write_cifar(root, name, monkeypatch)
    for write in (write_mnist, write_svhn, write_dtd, write_places365, write_tiny_imagenet):
        write(root, monkeypatch)
