"""Every preset loads, could run as far as that shows without data, and builds the networks that it names."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import torch

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.networks import NETWORKS, build_network, check_network
from sio_ray.config import Config, load_config, preset_names
from sio_ray.datasets import SOURCES
from sio_ray.datasets.imagenet import NUM_CLASSES
from sio_ray.datasets.openood import BENCHMARKS
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.generate import generator
from sio_ray.imageset import ImageSetInfo
from sio_ray.stages.layout import run_order
from sio_ray.stages.preflight import check

PRESETS = {
    *("digits", "fashion_mnist", "cifar10", "cifar100"),
    *("imagenet_10", "imagenet_100", "imagenet_dogs", "imagenet_200", "imagenet_1k", "imagenet_256px"),
}

#: Of the pictures that a source with a fixed size gives.
SHAPES = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}

NUM_CLASSES_OF = {
    "digits": 6,
    "fashion_mnist": 7,
    "cifar10": 10,
    "cifar100": 100,
    "imagenet_10": 10,
    "imagenet_100": 100,
    "imagenet_dogs": 100,
    "imagenet_200": 200,
    "imagenet_1k": 1000,
    "imagenet_256px": 1000,
}

#: What draws a set that stands alone, and trains nothing.
ALONE = {"imagenet_256px"}


def stored_shape(config: Config) -> tuple[int, int, int]:
    section = config.prepare
    return SHAPES.get(section.source, (section.channels, section.image_size_px, section.image_size_px))


def text_of(name: str) -> str:
    return (resources.files("sio_ray.presets") / f"{name}.yaml").read_text()


def test_the_presets_are_those_of_the_design() -> None:
    assert set(preset_names()) == PRESETS == set(NUM_CLASSES_OF)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_could_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(name, [f"output_dir={tmp_path}"])
    assert config.name == name
    assert config.prepare.source in SOURCES
    looked_for: list[str] = []
    monkeypatch.setattr(generator, "find_generator", looked_for.append)  # it would ask the hub
    check(config, ["generate"] if name in ALONE else [*run_order(config), "tune"])
    assert looked_for == ([config.generate.generator] if config.generate.generator else [])
    assert set(looked_for) <= {"facebook/DiT-XL-2-256"}


@pytest.mark.parametrize("name", sorted(PRESETS - ALONE))
def test_the_networks_of_a_preset_are_built(name: str) -> None:
    config = load_config(name)
    shape = Augmentation.of(config.train).output_shape(stored_shape(config))
    check_network(config.train.network, config.train.width, config.train.pretrained, shape)
    with torch.device("meta"):
        network = build_network(config.train.network, shape, config.train.width)
        assert network.features(torch.empty(2, *shape)).shape == (2, network.num_features)
        if config.generate.generator is None:
            channels, height, width = stored_shape(config)
            class_names = tuple(map(str, range(NUM_CLASSES_OF[name])))
            info = ImageSetInfo(class_names=class_names, height_px=height, width_px=width, channels=channels)
            unet = build_unet(config.fit_generator, info)
            assert unet.config.num_class_embeds == NUM_CLASSES_OF[name] + 1
    assert config.train.network in NETWORKS


@pytest.mark.parametrize("name", sorted(PRESETS - ALONE))
def test_the_generator_draws_the_classes_and_the_size_of_the_training_set(name: str) -> None:
    config = load_config(name)
    if config.generate.generator is None:
        assert config.generate.class_ids is None
        return
    assert config.generate.image_size_px == config.prepare.image_size_px
    ids = config.generate.class_ids or tuple(range(NUM_CLASSES))
    assert ids == (config.prepare.id_classes or tuple(range(NUM_CLASSES)))
    assert len(ids) == len(set(ids)) == NUM_CLASSES_OF[name]
    assert list(ids) == sorted(ids)
    assert 0 <= ids[0] <= ids[-1] < NUM_CLASSES


def test_the_splits_of_the_paper() -> None:
    # `SUB_CLASSES` in imagenet_train_subclasses.py of github.com/zjysteven/SIO.
    ten = load_config("imagenet_10").prepare.id_classes
    assert ten is not None
    assert set(ten) == {404, 751, 94, 281, 62, 207, 31, 949, 814, 569}
    assert load_config("imagenet_dogs").prepare.id_classes == tuple(range(151, 251))
    assert load_config("fashion_mnist").prepare.id_classes == (0, 1, 3, 4, 5, 7, 8)
    for name in ("imagenet_200", "imagenet_1k"):
        assert load_config(name).prepare.benchmark in BENCHMARKS


def test_the_recipe_of_the_paper() -> None:
    for name in ("cifar10", "cifar100"):
        section = load_config(name).train
        assert (section.network, section.num_epochs, section.global_batch_size) == ("resnet18_32px", 200, 128)
        assert (section.learning_rate, section.momentum, section.weight_decay) == (0.1, 0.9, 5e-4)
        assert (section.schedule, section.real_weight, len(section.seeds)) == ("cosine", 0.8, 3)
    for name in ("imagenet_10", "imagenet_100", "imagenet_dogs"):
        section = load_config(name).train
        assert (section.network, section.num_epochs, section.global_batch_size) == ("resnet18_224px", 60, 256)
        assert (section.input_px, section.resized_crop, section.real_weight) == (224, True, 0.9)
    section = load_config("imagenet_200").train
    assert (section.network, section.num_epochs, section.global_batch_size) == ("resnet18_224px", 90, 256)


@pytest.mark.parametrize("name", sorted(PRESETS - {"digits", "fashion_mnist", "imagenet_256px"}))
def test_what_needs_a_gpu_asks_for_one(name: str) -> None:
    config = load_config(name)
    assert config.train.gpus_per_worker == config.generate.gpus_per_actor == config.evaluate.gpus_per_task == 1
    assert config.tune.gpus_per_trial == 1
    assert config.generate.generator is not None or config.fit_generator.gpus_per_worker == 1


@pytest.mark.parametrize("name", sorted(PRESETS - {"digits", "imagenet_256px"}))
def test_a_preset_begins_with_what_it_needs_and_how_long_it_takes(name: str) -> None:
    comment = re.match(r"(#.*\n)+", text_of(name))
    assert comment is not None
    assert re.search(r"^# Needs: ", comment[0], re.MULTILINE)
    assert re.search(r"^# How long", comment[0], re.MULTILINE)
    assert all(len(line) <= 120 for line in text_of(name).splitlines())
