"""A node is lost while a classifier trains on it: another one goes on, and the weights end the same to the last bit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard_files import tensorboard_values

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.checkpoint import load_classifier
from sio_ray.classifier.feed import MemoryFeed, Sources
from sio_ray.classifier.trainee import build_trainee
from sio_ray.config import load_config
from sio_ray.imageset import ImageSet, write_image_set
from sio_ray.stages.layout import prepare_place, train_runs
from sio_ray.stages.prepare import prepare
from sio_ray.stages.record import read_record
from sio_ray.training.loop import SilentReporter
from sio_ray.training.loop import train as train_to_the_end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_STEPS, EVERY = 500, 50


@pytest.fixture
def config(tmp_path, tiny):
    """Of one run on digits and 2,000 synthetic images, which are too many for Ray to keep with the driver."""
    config = load_config(
        "digits",
        [
            *tiny,
            f"output_dir={tmp_path / 'runs'}",
            f"train.synthetic_set={tmp_path / 'synthetic'}",
            f"train.num_steps={NUM_STEPS}",
            f"train.report_every_steps={EVERY}",
            *("train.algorithm=cutmix", "train.ema_decay=0.9", "train.micro_batches=2", "train.sync_batch_norm=true"),
            *("train.arms=[sio]", "train.loggers=[tensorboard]"),
        ],
    )
    info = ImageSet(prepare(config).output / "id" / "train").info
    images = np.random.default_rng(0).integers(0, 256, (2000, *info.image_shape), dtype=np.uint8)
    write_image_set(tmp_path / "synthetic", info, images, np.arange(2000) % info.num_classes)
    return config


def undisturbed(config, architecture):
    """The curve of a plain loop in this process, and the classifier that it ends with."""
    real, synthetic, val = (
        ImageSet(uri).read()
        for uri in (
            prepare_place(config).folder / "id" / "train",
            config.train.synthetic_set,
            prepare_place(config).folder / "id" / "val",
        )
    )
    place = {"seed": 0, "device": torch.device("cpu")}
    feed = MemoryFeed(
        Sources(real, synthetic),
        global_batch_size=config.train.global_batch_size,
        real_batch_share=config.train.batch_share,
        augmentation=Augmentation.of(config.train),
        **place,
    )
    trainee = build_trainee(config.train, architecture, feed, val, arm="sio", **place)
    curve = train_to_the_end(trainee, num_steps=NUM_STEPS, report_every_steps=EVERY, reporter=SilentReporter())
    return curve, trainee.classifier


def test_a_lost_node_costs_nothing(config, tmp_path):
    config_file = tmp_path / "config.yaml"
    config_file.write_text(json.dumps(config.model_dump(mode="json")))
    # A process of its own, as the tests' own cluster is in this one.
    command = [sys.executable, str(Path(__file__).with_name("lost_node.py")), str(config_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr

    folder = train_runs(config)[0].place.folder
    # Of the worker that was lost, and of the one that went on.
    _, steps = (
        sorted({step for _, step in tensorboard_values(path)})
        for path in sorted((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime)
    )
    assert steps == list(range(steps[0], NUM_STEPS + 1, EVERY))
    assert steps[0] > EVERY, "it went on from a checkpoint"

    trained = load_classifier(folder / "checkpoint")
    curve, expected = undisturbed(config, trained.architecture)
    assert read_record(folder).result["curve"] == curve
    state = expected.state_dict()
    assert [name for name, value in trained.state_dict().items() if not torch.equal(value, state[name])] == []
