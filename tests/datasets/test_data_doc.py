"""Every command of docs/data.md runs, on small files in the places that the document names."""

import re

import pytest
from markdown_commands import code_blocks, read_document, sio_ray_commands
from PIL import Image
from published_samples import write_cifar_root, write_fashion_mnist
from test_openood_source import CIFAR10, IMAGENET200, write

from sio_ray.cli import main
from sio_ray.config import load_config, preset_names
from sio_ray.datasets import SOURCES, cifar, dtd, fashion_mnist, mnist, places365, svhn, tiny_imagenet
from sio_ray.imageset import ImageSet
from sio_ray.stages.layout import prepare_place

DOC = read_document("docs/data.md")

#: Overrides that keep what is drawn small; ImageNet's classes are those that the small files have.
SMALL = ("prepare.images_per_ood_set=3", "prepare.num_outliers=3", "prepare.image_size_px=16")


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 18), (1, 2, 3)).save(path)


def write_imagenet(root):
    ids = load_config("imagenet_10").prepare.id_classes
    for number in range(1000):
        (root / "train" / f"n{number:08d}").mkdir(parents=True)
        for index in range(2):
            save(root / "val" / f"n{number:08d}" / f"{index}.JPEG")
    for number in ids:
        save(root / "train" / f"n{number:08d}" / "0.JPEG")


def write_pictures(root):
    for name in ("train/cat", "train/dog", "near_ood/fox"):
        for index in range(6):
            save(root / name / f"{index}.webp")
    (root / "train" / "dog" / "broken.jpg").write_bytes(b"no picture")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """All files that the document speaks of."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    write_cifar_root(root, monkeypatch)
    write_fashion_mnist(root / "FashionMNIST" / "raw", monkeypatch)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", root / "FashionMNIST" / "raw")
    write(root, "cifar10", CIFAR10)
    write(root, "imagenet200", IMAGENET200)
    write_imagenet(root / "imagenet")
    write_pictures(tmp_path / "pictures")


@pytest.mark.parametrize("command", sio_ray_commands(DOC), ids=" ".join)
def test_a_command_of_the_document(command, data, tmp_path):
    stage, preset, *overrides = command
    assert stage == "prepare"
    small = [*SMALL, *(["prepare.id_classes=[1,31,404]"] if preset == "imagenet_200" else [])]
    arguments = [preset, *overrides, *small, f"output_dir={tmp_path}"]
    with pytest.raises(SystemExit) as stop:
        main(["prepare", *arguments])
    assert stop.value.code in (0, None)
    config = load_config(preset, arguments[1:])
    assert len(ImageSet(prepare_place(config).folder / "id" / "train")) > 0


def test_the_document_names_every_source_every_file_and_its_place():
    table = DOC.split("```bash")[0]
    assert set(re.findall(r"^\| `(\w+)`(?:, `(\w+)`)?", table, re.MULTILINE)) == {
        *((source, "") for source in SOURCES if not source.startswith("cifar")),
        ("cifar10", "cifar100"),
    }
    places = {
        name: place
        for names, place in re.findall(r"^\| (`[^|]*`) \| `([^`]*)` \|", DOC, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", names)
    }
    assert {name: place for name, place in places.items() if name not in SOURCES} == {
        **{archive.file.name: "data/" for archive in cifar.ARCHIVES.values()},
        **{file.name: "data/MNIST/raw/" for file in mnist.FILES.values()},
        svhn.FILE.name: "data/",
        dtd.FILE.name: "data/dtd/",
        places365.FILE.name: "data/",
        tiny_imagenet.FILE.name: "data/",
    }


def test_the_document_speaks_of_every_preset_that_trains():
    (block,) = code_blocks(DOC, "bash")
    assert set(preset_names()) - {"imagenet_256px"} <= set(re.findall(r"\b\w+\b", block))
