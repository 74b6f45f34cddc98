"""Every command of docs/training.md runs, on small settings, and what it trains can be scored."""

import json
from pathlib import Path

import pytest
import torch
from markdown_commands import read_document, sio_ray_commands

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.checkpoint import load_classifier
from sio_ray.classifier.feed import MemoryFeed, Sources
from sio_ray.classifier.trainee import build_trainee
from sio_ray.cli import main, run_stages
from sio_ray.config import load_config
from sio_ray.stages.layout import train_runs
from sio_ray.stages.record import read_record
from sio_ray.stages.training_sets import open_training_sets
from sio_ray.training.feeds import open_feed
from sio_ray.training.loop import SilentReporter, train

DOCS = read_document("docs/training.md")
COMMANDS = sio_ray_commands(DOCS)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (0, None)


def test_all_algorithms_and_networks_are_named():
    from sio_ray.classifier.algorithms import ALGORITHMS
    from sio_ray.classifier.networks import NETWORKS

    for name in (*ALGORITHMS, *NETWORKS):
        assert f"`{name}`" in DOCS


def test_commands_that_train(finished):
    overrides, _, _ = finished
    small = (*overrides, "train.arms=[sio]", "train.num_steps=4", "train.report_every_steps=2")
    streamed, of_ensemble = (arguments for arguments in COMMANDS if arguments[0] == "train")
    run([*streamed, *small, "train.feed=stream"])
    check_streamed(load_config("digits", [*streamed[2:], *small, "train.feed=stream"]))

    assert "train.ensemble_size=5" in of_ensemble
    # The first member is the classifier that is there already.
    two = (*overrides, "train.arms=[sio]", "train.ensemble_size=2")
    run([*of_ensemble, *two])
    ensemble = load_config("digits", [*two, "evaluate.detectors=[msp,energy]"])
    (scored,) = run_stages(ensemble, ["evaluate"]).values()
    assert [run.member for run in train_runs(ensemble)] == [0, 1]
    assert json.loads((Path(scored["output"]) / "metrics.json").read_text())


def check_streamed(config):
    """Under Ray Train a stream trains what a plain loop does that has the same images in memory, in the same order."""
    (streamed,) = train_runs(config)
    sets = open_training_sets(config, "train", with_synthetic=True)
    place = {"seed": 0, "device": torch.device("cpu")}
    stream = open_feed(config.train, sets.sources("sio"), arm="sio", **place)
    feed = MemoryFeed(
        Sources(sets.real.read(), sets.synthetic.read()),
        global_batch_size=config.train.global_batch_size,
        real_batch_share=config.train.batch_share,
        augmentation=Augmentation.of(config.train),
        **place,
    )
    feed.plan.passes = stream.plan.passes  # the order is all in which the engines differ
    trained = load_classifier(streamed.place.folder / "checkpoint")
    trainee = build_trainee(config.train, trained.architecture, feed, sets.val.read(), arm="sio", **place)
    curve = train(trainee, num_steps=4, report_every_steps=2, reporter=SilentReporter())
    assert read_record(streamed.place.folder).result["curve"] == curve
    assert all(value.equal(trained.state_dict()[name]) for name, value in trainee.classifier.state_dict().items())


def test_commands_on_checkpoints(finished, tmp_path, monkeypatch):
    _, config, _ = finished
    monkeypatch.chdir(tmp_path)
    small_cnn = train_runs(config)[0].place.folder / "checkpoint"
    classifier = save_resnet(tmp_path / "resnet")
    for arguments in COMMANDS:
        if arguments[0] == "checkpoint":
            checkpoint = str(small_cnn) if arguments[1] == "show" else "resnet"
            run([{"CHECKPOINT": checkpoint, "best.ckpt": "model.ckpt"}.get(a, a) for a in arguments])
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert load_classifier("checkpoint")(images).equal(classifier(images))


def save_resnet(folder):
    """A checkpoint with the normalisation that the docs' import names."""
    from sio_ray.classifier.checkpoint import save_classifier
    from sio_ray.classifier.exchange import NORMALISATIONS
    from sio_ray.classifier.model import Architecture, Classifier

    mean, std = NORMALISATIONS["cifar10"]
    architecture = Architecture(
        network="resnet18_32px", class_names=("a", "b"), image_shape=(3, 32, 32), mean=mean, std=std
    )
    classifier = Classifier(architecture).eval()
    save_classifier(folder, architecture, classifier.state_dict())
    return classifier
